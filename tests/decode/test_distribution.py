"""What speculation emits has standard sampling's distribution: jointly over positions 1..K+1, for every combination of
processors, every way to draft, and both forms of the exact rule.

A toy target and a toy drafter are tables of logits, one row for each prefix, so that the probability of every output of
K+1 tokens can be written down by a slow and obvious reference. 200,000 outputs are drawn through the engine's own
processors, drafting and acceptance and compared by a chi-square test. All tests of this file together fail for a right
implementation with probability 1e-3 (Bonferroni); seeds are fixed.
"""

import itertools
import math
import re
from functools import cache

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from mtp.decode import GrammarCompiler, Request, Sampling
from mtp.decode.acceptance import Drafted, Thresholds, verify_exact, verify_greedy, verify_threshold, verify_typical
from mtp.decode.noise import ACCEPT, DRAFT, EMIT, exponentials, uniforms
from mtp.decode.penalties import TokenCounts
from mtp.decode.processors import Processors
from mtp.decode.sampler import draw, race
from mtp.decode.sequence import Sequence
from mtp.evaluate.goodness import p_value, total_variation
from mtp.tokenizer import END_OF_TEXT, Tokenizer

SAMPLES = 200_000
K, V, EOS, STOP = 2, 5, 0, 3
PROMPT = (1, 2)
CPU = torch.device("cpu")
FAMILY = 1e-3
OUTPUTS = list(itertools.product(range(V), repeat=K + 1))
PREFIXES = [prefix for length in range(K + 1) for prefix in itertools.product(range(V), repeat=length)]

PROCESSORS = {
    "regex": {"regex": "([ab]c?|d[abd])+"},
    "bias": {"logit_bias": {1: 0.8, 4: -0.6}},
    "min_tokens": {"min_tokens": 2, "stop_ids": (STOP,), "max_tokens": 9},
    "penalties": {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.4},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.85},
    "min_p": {"min_p": 0.08},
}
SUBSETS = [names for size in range(len(PROCESSORS) + 1) for names in itertools.combinations(PROCESSORS, size)]
FEW = [names for names in SUBSETS if len(names) in (0, 1, len(PROCESSORS))]
ENDS = [FEW[0], FEW[-1]]
WAYS = ["rejection", "seeded", "certain"]
LIMIT = FAMILY / (len(SUBSETS) * len(WAYS))


@cache
def tables():
    """Logits of target and drafter by prefix."""
    generator = torch.Generator().manual_seed(1)
    target = {prefix: torch.randn(V, generator=generator) * 1.3 for prefix in PREFIXES}
    drafter = {prefix: target[prefix] * 0.5 + torch.randn(V, generator=generator) * 0.9 for prefix in PREFIXES}
    return target, drafter


@cache
def compiler():
    vocabulary = {END_OF_TEXT: EOS, "a": 1, "b": 2, "c": 3, "d": 4}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.add_special_tokens([END_OF_TEXT])
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return GrammarCompiler(Tokenizer(inner), V)


def sampling_of(names):
    return Sampling(
        **({"temperature": 1.0} | {key: value for name in names for key, value in PROCESSORS[name].items()})
    )


# The reference: one position at a time, in plain Python.


@cache
def language(expression):
    """Every text of up to 6 letters that matches."""
    texts = ("".join(letters) for size in range(7) for letters in itertools.product("abcd", repeat=size))
    return [text for text in texts if re.fullmatch(expression, text)]


@cache
def allowed_by(expression, prefix):
    if EOS in prefix:
        return {EOS}
    text = "".join(" abcd"[token] for token in prefix)
    matching = [one for one in language(expression) if one.startswith(text)]
    following = {" abcd".index(one[len(text)]) for one in matching if len(one) > len(text)}
    return following | ({EOS} if text in matching else set())


def reference(logits, prefix, wish):
    """The distribution of the token behind `prefix`, a list of V floats."""
    x = [float(value) for value in logits]
    if wish.regex is not None:
        x = [value if token in allowed_by(wish.regex, prefix) else -math.inf for token, value in enumerate(x)]
    x = [value + wish.logit_bias.get(token, 0.0) for token, value in enumerate(x)]
    if len(prefix) < wish.min_tokens:
        x = [-math.inf if token in (EOS, *wish.stop_ids) else value for token, value in enumerate(x)]
    for token in range(V):
        if token in PROMPT or token in prefix:
            x[token] = x[token] / wish.repetition_penalty if x[token] > 0 else x[token] * wish.repetition_penalty
        times = prefix.count(token)
        x[token] -= wish.frequency_penalty * times + wish.presence_penalty * (times > 0)
    p = normal([math.exp(value / wish.temperature) for value in x])
    ranked = sorted(range(V), key=lambda token: -p[token])
    if wish.top_k:
        p = normal([p[token] if token in ranked[: wish.top_k] else 0.0 for token in range(V)])
    kept, mass = [], 0.0
    for token in ranked:
        if mass < wish.top_p:
            kept.append(token)
        mass += p[token]
    p = normal([p[token] if token in kept else 0.0 for token in range(V)])
    return normal([value if value >= wish.min_p * max(p) else 0.0 for value in p])


def normal(weights):
    return [weight / sum(weights) for weight in weights]


def exact_outputs(wish):
    """The probability of each of OUTPUTS, and the conditional distributions behind each prefix."""
    behind = {}
    for prefix in PREFIXES:
        try:
            behind[prefix] = reference(tables()[0][prefix], prefix, wish)
        except ZeroDivisionError:  # a prefix of probability 0, behind which nothing is possible
            behind[prefix] = [1.0 / V] * V
    chances = [math.prod(behind[one[:i]][one[i]] for i in range(K + 1)) for one in OUTPUTS]
    return torch.tensor(chances, dtype=torch.float64), behind


# The same through the engine's parts.


def processors_of(wish, rows):
    request = Request(prompt=PROMPT, sampling=wish)
    sequences = []
    for number in range(rows):
        sequence = Sequence(number, request, 0, 0, 0)
        sequence.counts = TokenCounts(PROMPT, V, CPU) if wish.penalised else None
        sequence.grammar = compiler().state(wish) if wish.constrained else None
        sequences.append(sequence)
    return Processors(sequences, (EOS,), V, CPU)


def target_rows(wish, drafts):
    """p (rows, K+1, V) for rows of K drafts."""
    target = tables()[0]
    logits = torch.stack([torch.stack([target[row[:i]] for i in range(K + 1)]) for row in drafts])
    return processors_of(wish, len(drafts)).probabilities(logits, torch.tensor(drafts))


def draft_rows(wish, made):
    """q (rows, V) of the next draft behind `made` drafts."""
    logits = torch.stack([tables()[1][row] for row in made]).unsqueeze(1)
    before = torch.tensor(made) if made[0] else None
    return processors_of(wish, len(made)).probabilities(logits, before, first=len(made[0])).squeeze(1)


def outputs_of(wish, way, rule="exact"):
    """SAMPLES outputs (SAMPLES, K+1) by speculation; after a rejection the reference goes on."""
    seeds = np.arange(SAMPLES, dtype=np.uint64)
    places = np.tile(np.arange(K + 1), (SAMPLES, 1))
    numbers = {name: torch.from_numpy(uniforms(seeds, places, name)) for name in (DRAFT, ACCEPT, EMIT)}
    clocks = exponentials(seeds, places, V, CPU) if way == "seeded" else None
    drafts, distributions = torch.zeros(SAMPLES, 0, dtype=torch.int64), []
    for place in range(K):
        if way == "certain":
            drafts = torch.cat((drafts, torch.full((SAMPLES, 1), (1, 4)[place])), dim=1)
            continue
        rows = list(itertools.product(range(V), repeat=place))
        q = draft_rows(wish, rows)[index_of(drafts)]
        ids = race(q, clocks[:, place]) if way == "seeded" else draw(q, numbers[DRAFT][:, place])
        distributions.append(q)
        drafts = torch.cat((drafts, ids.unsqueeze(1)), dim=1)
    p = target_rows(wish, list(itertools.product(range(V), repeat=K)))[index_of(drafts)]
    q = torch.stack(distributions, dim=1) if distributions else None
    drafted = Drafted(drafts, torch.full((SAMPLES,), K), q)
    if rule != "exact":
        tau = torch.full((SAMPLES, 1), 0.1)
        verify = verify_threshold if rule == "threshold" else verify_typical
        limits = Thresholds(tau, torch.full((SAMPLES, 1), 0.3), torch.full((SAMPLES, 1), 0.09**0.5))
        verdict = verify(p, drafted, numbers[EMIT], limits)
    elif way == "seeded":
        verdict = verify_greedy(race(p, clocks), drafted)
    else:
        verdict = verify_exact(p, drafted, numbers[ACCEPT][:, :K], numbers[EMIT])
    return verdict.tokens, verdict.accepted


def index_of(tokens):
    """Rows of tokens as numbers in base V."""
    return (tokens * V ** torch.arange(tokens.shape[1] - 1, -1, -1)).sum(1)


def counts_of(wish, way, rule="exact"):
    _, behind = exact_outputs(wish)
    tokens, accepted = outputs_of(wish, way, rule)
    generator = torch.Generator().manual_seed(3)
    for place in range(1, K + 1):
        table = torch.tensor([behind[one] for one in itertools.product(range(V), repeat=place)])
        uniform = torch.rand(SAMPLES, generator=generator, dtype=torch.float64)
        going_on = draw(table[index_of(tokens[:, :place])], uniform)
        tokens[:, place] = torch.where(accepted < place, going_on, tokens[:, place])
    return torch.bincount(index_of(tokens), minlength=V ** (K + 1)), accepted


def check(names, way):
    wish = sampling_of(names)
    chances, _ = exact_outputs(wish)
    counts, accepted = counts_of(wish, way)
    assert p_value(counts, chances) > LIMIT, (names, way, total_variation(counts, chances))
    assert way == "certain" or 0.05 < float(accepted.double().mean()) < K


@pytest.mark.parametrize(
    ("names", "way"), [(names, way) for names in FEW for way in WAYS if way != "certain" or names in ENDS]
)
def test_speculation_has_standard_samplings_distribution(names, way):
    check(names, way)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_the_same_for_every_combination_of_processors(way):
    for names in SUBSETS:
        check(names, way)


def check_lossy(names, rule):
    wish = sampling_of(names)
    chances, _ = exact_outputs(wish)
    counts, _ = counts_of(wish, "rejection", rule)
    assert p_value(counts, chances) < 1e-12, (names, rule)
    assert total_variation(counts, chances) > 0.05, (names, rule)


@pytest.mark.parametrize("rule", ["threshold", "typical"])
@pytest.mark.parametrize("names", ENDS)
def test_the_lossy_rules_fail_the_same_test(names, rule):
    check_lossy(names, rule)


@pytest.mark.long
@pytest.mark.parametrize("rule", ["threshold", "typical"])
def test_the_lossy_rules_fail_it_with_every_single_processor(rule):
    for names in FEW:
        check_lossy(names, rule)


def test_at_temperature_0_every_output_is_the_references_likeliest():
    for names in FEW:
        sharp = Sampling(**(vars(sampling_of(names)) | {"temperature": 0.0}))
        soft = Sampling(**(vars(sampling_of(names)) | {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}))
        tokens = ()
        for _ in range(K + 1):
            p = reference(tables()[0][tokens], tokens, soft)
            tokens = (*tokens, p.index(max(p)))
        for drafts in itertools.product(range(V), repeat=K):
            p = target_rows(sharp, [drafts])
            right = next((i for i in range(K) if drafts[i] != tokens[i]), K)
            verdict = verify_exact(
                p,
                Drafted(torch.tensor([drafts]), torch.tensor([K]), None),
                torch.rand(1, K).double(),
                torch.rand(1, K + 1).double(),
            )
            assert int(verdict.accepted) == right
            assert tuple(verdict.tokens[0, : right + 1].tolist()) == tokens[: right + 1]
