"""Chi-square tests of distributions. Error rate of each: a right implementation fails with probability 1e-4; seeds are
fixed, so that a run that passes passes always."""

import math

import numpy as np
import pytest
import torch

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from mtp.decode.acceptance import Drafted, Thresholds, verify_exact, verify_threshold
from mtp.decode.noise import ACCEPT, DRAFT, EMIT, uniforms
from mtp.decode.processors import Processors
from mtp.decode.sampler import draw
from mtp.decode.sequence import Sequence
from tests.decode.tiny import tiny_model

SAMPLES = 200_000
Z = 3.72  # one-sided 1e-4


def chi_square_is_likely(counts, expected):
    """Whether the statistic lies below its 1 - 1e-4 quantile (Wilson-Hilferty); cells expecting under 5 are merged."""
    order = np.argsort(expected)
    small = np.cumsum(expected[order]) < 5
    merged_e = np.append(expected[order][~small], expected[order][small].sum())
    merged_c = np.append(counts[order][~small], counts[order][small].sum())
    keep = merged_e > 0
    assert merged_c[~keep].sum() == 0, "a token of probability 0 was emitted"
    statistic = (((merged_c - merged_e)[keep]) ** 2 / merged_e[keep]).sum()
    freedom = keep.sum() - 1
    limit = freedom * (1 - 2 / (9 * freedom) + Z * math.sqrt(2 / (9 * freedom))) ** 3
    return statistic < limit


def speculate(p, q, samples, rule="exact"):
    """Tokens (samples, K + 1) that emerge when drafts are drawn from q (K, V) and verified against p (K + 1, V).

    p and q depend on the position alone here, so positions after a rejection are continued by drawing from p.
    """
    k, seeds = len(q), np.arange(samples, dtype=np.uint64)
    places = np.tile(np.arange(k + 1), (samples, 1))
    numbers = {name: torch.from_numpy(uniforms(seeds, places, name)) for name in (DRAFT, ACCEPT, EMIT)}
    drafts = torch.stack([draw(q[i].expand(samples, -1), numbers[DRAFT][:, i]) for i in range(k)], dim=1)
    drafted = Drafted(drafts, torch.full((samples,), k), q.expand(samples, -1, -1))
    wide = p.expand(samples, -1, -1)
    if rule == "exact":
        verdict = verify_exact(wide, drafted, numbers[ACCEPT][:, :k], numbers[EMIT])
    else:
        tau = torch.full((samples, 1), 0.1)
        verdict = verify_threshold(wide, drafted, numbers[EMIT], Thresholds(tau, tau, tau))
    return verdict


def distributions(seed, k, vocab=5):
    generator = torch.Generator().manual_seed(seed)
    p = (torch.randn(k + 1, vocab, generator=generator) * 1.2).softmax(-1)
    q = (torch.randn(k, vocab, generator=generator) * 1.2).softmax(-1)
    return p, q


@pytest.mark.parametrize("seed", range(4))
def test_exact_acceptance_emits_the_targets_distribution_jointly_over_positions(seed):
    k = 2
    p, q = distributions(seed, k)
    verdict = speculate(p, q, SAMPLES)
    tokens, accepted = verdict.tokens.numpy(), verdict.accepted.numpy()
    vocab = p.shape[1]
    # Position j is emitted if at least j drafts stand; given that, its tokens are p_j, jointly with those before it.
    for j in range(k + 1):
        there = accepted >= j
        prefix = np.zeros(there.sum(), dtype=np.int64)
        for i in range(j):
            prefix = prefix * vocab + tokens[there, i]
        joint = prefix * vocab + tokens[there, j]
        counts = np.bincount(joint, minlength=vocab ** (j + 1)).astype(float)
        of_prefix = np.bincount(prefix, minlength=vocab**j).astype(float)
        assert chi_square_is_likely(counts, np.outer(of_prefix, p[j].double().numpy()).ravel())


def test_the_lossy_threshold_rule_fails_the_same_test():
    p, q = distributions(0, 1)
    tokens = speculate(p, q, SAMPLES, rule="threshold").tokens[:, 0].numpy()
    counts = np.bincount(tokens, minlength=5).astype(float)
    assert not chi_square_is_likely(counts, p[0].double().numpy() * SAMPLES)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"logit_bias": {3: 2.0}, "top_k": 8, "temperature": 0.7},
    ],
)
@pytest.mark.parametrize("kind", ["sequential", "parallel_0"])
def test_sampled_speculation_has_standard_samplings_distribution(kind, wishes):
    """Two samples of 3-token outputs from the whole engine, compared by a chi-square test of homogeneity."""
    model, prompt, samples = tiny_model(kind), [5, 6, 7, 8], 800
    found = []
    for speculation in (Speculation(decoder="standard"), Speculation(decoder="mtp", num_draft_tokens=1)):
        first = 0 if speculation.decoder == "standard" else samples
        engine = Engine(model, options=EngineOptions(max_batch_size=64))
        for seed in range(first, first + samples):
            sampling = Sampling(max_tokens=3, seed=seed, **({"temperature": 1.0} | wishes))
            engine.add(Request(prompt=prompt, sampling=sampling, speculation=speculation))
        outputs = {}
        while engine.has_work:
            for output in engine.step():
                outputs.setdefault(output.request_id, []).extend(token.id for token in output.tokens)
        found.append(np.array(list(outputs.values())))
    for position in range(3):
        one, two = (np.bincount(sample[:, position], minlength=48).astype(float) for sample in found)
        pooled = (one + two) / 2
        assert chi_square_is_likely((one - two) / math.sqrt(2) + pooled, pooled)


def test_a_seed_decides_the_tokens_and_no_seed_does_not():
    model = tiny_model("sequential")
    seeded = Sampling(max_tokens=12, temperature=1.0, seed=3)
    assert generate(model, [[5, 6]], seeded)[0].tokens == generate(model, [[5, 6]], seeded)[0].tokens
    free = [tuple(generate(model, [[5, 6]], Sampling(max_tokens=12, temperature=1.0))[0].tokens) for _ in range(4)]
    assert len(set(free)) > 1


def processed(logits, **wishes):
    request = Request(prompt=[0, 1], sampling=Sampling(**({"temperature": 1.0} | wishes)))
    sequence = Sequence(0, request, 0, 0, 0)
    return Processors([sequence], (), logits.shape[-1], torch.device("cpu")).probabilities(logits.view(1, 1, -1))[0, 0]


def test_truncations_keep_what_they_say():
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    torch.testing.assert_close(processed(logits, top_k=2), torch.tensor([2 / 3, 1 / 3, 0, 0]))
    torch.testing.assert_close(processed(logits, top_p=0.6), torch.tensor([2 / 3, 1 / 3, 0, 0]))
    torch.testing.assert_close(processed(logits, min_p=0.4), torch.tensor([2 / 3, 1 / 3, 0, 0]))
    torch.testing.assert_close(processed(logits, temperature=0.0), torch.tensor([1.0, 0, 0, 0]))
