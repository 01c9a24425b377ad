"""Is speculation exact on this very model? Greedy equality and a test of the sampled distribution, for each decoder.

    greedy    every output equals standard decoding's, token for token (but where two logits tie); standard decoding
              equals the argmax of the training forward
    sampling  the first K + 2 tokens behind a prompt, jointly, against their exact probabilities, which the training
              forward gives by walking the tree of outputs (top_k keeps it small): chi-square, Bonferroni-corrected

Prompts are text of the model's own, so that nothing but the model is needed. Knows ids; nothing of text or registries.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation
from mtp.decode.probe import own_rows
from mtp.errors import MTPError
from mtp.evaluate.goodness import noise_of_total_variation, p_value, total_variation
from mtp.model import MTPModel

TOP_K = 3
MOST_DRAFTS = 2
"""Drafts a step in the test of sampling: 3^(2 + 2) outputs."""
TIE = 1e-3
"""Logits closer than this may change places when a pass adds up in another order."""
PROMPT_LENGTH, NEW_TOKENS = 24, 24
CANDIDATES = 8
"""Prompts looked at for the test of sampling; it takes the one whose outputs are least predictable."""

Verdict = Literal["exact", "lossy", "FAILED"]


@dataclass(frozen=True)
class Audited:
    """One decoder under one rule in one test."""

    decoder: str
    rule: str
    """The acceptance rule; `exact, seeded` is the form that requests with a seed get."""
    test: Literal["greedy", "sampling"]
    verdict: Verdict
    detail: str
    divergence: float | None = None
    """Sampling: total variation distance of the sample from the exact distribution."""
    noise: float | None = None
    """What the distance of a perfect sample of this size is on average."""
    p_value: float | None = None


@dataclass(frozen=True)
class AuditReport:
    """All verdicts on a model."""

    prompts: int
    samples: int
    error_rate: float
    """Probability that a right implementation fails any of the tests."""
    rows: list[Audited]

    @property
    def failed(self) -> list[Audited]:
        """Exact decoders that were not."""
        return [row for row in self.rows if row.verdict == "FAILED"]


@dataclass(frozen=True)
class _Case:
    speculation: Speculation
    seeded: bool = False

    @property
    def rule(self) -> str:
        if self.speculation.decoder == "parallel":
            return "unverified"
        return self.speculation.acceptance + (", seeded" if self.seeded else "")


def audit(
    model: MTPModel,
    *,
    prompts: int = 32,
    samples: int = 2000,
    error_rate: float = 1e-3,
    draft_model: MTPModel | None = None,
    on_progress: Callable[[str], None] = lambda doing: None,
) -> AuditReport:
    """Test every decoder and rule that this model can run.

    Args:
        model: in evaluation mode.
        prompts: for the test of greedy decoding.
        samples: outputs drawn for each test of sampling.
        error_rate: of all tests together.
        draft_model: adds the decoder of that name.
        on_progress: told what is being done.

    Raises:
        MTPError: decoding failed, or no prompt suits the test of sampling.
    """
    on_progress("writing prompts")
    cases = _cases(model, draft_model is not None)
    texts = own_rows(model, max(prompts, CANDIDATES), min(PROMPT_LENGTH, model.config.max_position_embeddings // 2))
    texts = [text[: 1 + place * 5 % len(text)] for place, text in enumerate(texts)]
    rows = []
    standard = _greedy(model, texts[:prompts], cases[0], draft_model)
    for case in cases:
        if not case.seeded:  # at temperature 0 a seed changes nothing
            on_progress(f"greedy decoding, {case.speculation.decoder}, {case.rule}")
            rows.append(_audit_greedy(model, texts[:prompts], case, standard, draft_model))
    on_progress("computing the exact distribution")
    outputs = _least_predictable(model, texts)
    limit = error_rate / sum(not case.speculation.lossy for case in cases)
    for case in cases:
        on_progress(f"sampling, {case.speculation.decoder}, {case.rule}")
        counts = _sample(model, outputs, case, samples, draft_model)
        rows.append(_audit_sampling(case, counts, outputs.probabilities, limit))
    return AuditReport(prompts, samples, error_rate, rows)


def _cases(model: MTPModel, has_draft_model: bool) -> list[_Case]:
    speculations = [Speculation(decoder="standard")]
    if model.config.prediction.kind != "none":
        speculations.append(Speculation(decoder="mtp"))
    if has_draft_model:
        speculations.append(Speculation(decoder="draft_model"))
    speculations.append(Speculation(decoder="prompt_lookup"))
    cases = [_Case(one, seeded) for one in speculations for seeded in (False, True)]
    if model.config.prediction.kind != "none":
        cases += [_Case(Speculation(decoder="mtp", acceptance=rule)) for rule in ("threshold", "typical")]
        cases.append(_Case(Speculation(decoder="parallel")))
    return cases


def _greedy(model: MTPModel, prompts: list[list[int]], case: _Case, draft_model: MTPModel | None) -> list[list[int]]:
    room = model.config.max_position_embeddings - max(map(len, prompts))
    sampling = Sampling(max_tokens=min(NEW_TOKENS, room))
    requests = [Request(prompt=prompt, sampling=sampling, speculation=case.speculation) for prompt in prompts]
    return _run(model, requests, draft_model)


def _audit_greedy(
    model: MTPModel,
    prompts: list[list[int]],
    case: _Case,
    standard: list[list[int]],
    draft_model: MTPModel | None,
) -> Audited:
    """Against standard decoding; standard decoding itself against the training forward."""
    reference = case.speculation.decoder == "standard"
    outputs = standard if reference else _greedy(model, prompts, case, draft_model)
    expected = [_forced_argmax(model, *pair) for pair in zip(prompts, standard, strict=True)] if reference else standard
    same = ties = 0
    for prompt, output, wanted in zip(prompts, outputs, expected, strict=True):
        same += output == wanted
        ties += output != wanted and _first_difference_is_a_tie(model, prompt, output, wanted)
    detail = f"{same} of {len(prompts)} outputs the same" + (f", {ties} part at a tie" if ties else "")
    verdict: Verdict = "lossy" if case.speculation.lossy else "exact" if same + ties == len(prompts) else "FAILED"
    return Audited(case.speculation.decoder, case.rule, "greedy", verdict, detail)


def _audit_sampling(case: _Case, counts: Tensor, exact: Tensor, limit: float) -> Audited:
    probabilities = torch.cat((exact, exact.new_zeros(1)))  # the last cell: outputs that ought to be impossible
    chance = p_value(counts, probabilities)
    distance = total_variation(counts, probabilities)
    noise = noise_of_total_variation(exact, int(counts.sum()))
    detail = f"distance {distance:.3f} (a perfect sample: {noise:.3f}), p = {chance:.2g}"
    verdict: Verdict = "lossy" if case.speculation.lossy else "exact" if chance > limit else "FAILED"
    return Audited(case.speculation.decoder, case.rule, "sampling", verdict, detail, distance, noise, chance)


@torch.inference_mode()
def _logits(model: MTPModel, rows: list[list[int]]) -> Tensor:
    """Horizon 1's logits (R, T, V) of rows of one length, by the training forward; the padding changes nothing."""
    padding = [0] * model.config.n_future
    tokens = torch.tensor([[*row, *padding] for row in rows], device=model.lm_head.weight.device)
    return model.logits(model(tokens)[0][:, : -len(padding)]).float()


def _forced_argmax(model: MTPModel, prompt: list[int], output: list[int]) -> list[int]:
    """What the training forward would have said at each place of the output."""
    return _logits(model, [prompt + output[:-1]])[0, len(prompt) - 1 :].argmax(-1).tolist()


def _first_difference_is_a_tie(model: MTPModel, prompt: list[int], output: list[int], wanted: list[int]) -> bool:
    place = next((i for i, pair in enumerate(zip(output, wanted, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return False
    logits = _logits(model, [prompt + wanted[:place]])[0, -1]
    return abs(float(logits[output[place]] - logits[wanted[place]])) < TIE


@dataclass(frozen=True)
class _Outputs:
    """All outputs behind a prompt under top_k, with their probabilities."""

    prompt: list[int]
    places: dict[tuple[int, ...], int]
    probabilities: Tensor

    @property
    def entropy(self) -> float:
        return float(torch.special.entr(self.probabilities).sum())


def _exact_outputs(model: MTPModel, prompt: list[int], length: int) -> _Outputs | None:
    """Walk the tree of outputs; None where two logits tie for the last of the top_k places."""
    level: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for _ in range(length):
        logits = _logits(model, [[*prompt, *output] for output, _ in level])[:, -1]
        best = logits.topk(TOP_K + 1, dim=-1)
        if bool((best.values[:, -2] - best.values[:, -1] < TIE).any()):
            return None
        chances = best.values[:, :TOP_K].double().softmax(-1).tolist()
        level = [
            ((*output, token), chance * share)
            for (output, chance), tokens, shares in zip(level, best.indices.tolist(), chances, strict=True)
            for token, share in zip(tokens[:TOP_K], shares, strict=True)
        ]
    places = {output: place for place, (output, _) in enumerate(level)}
    return _Outputs(prompt, places, torch.tensor([chance for _, chance in level], dtype=torch.float64))


def _least_predictable(model: MTPModel, texts: list[list[int]]) -> _Outputs:
    drafts = MOST_DRAFTS if model.config.n_future < 2 else min(MOST_DRAFTS, model.config.n_future - 1)
    length = drafts + 2
    fitting = [text for text in texts if len(text) + length + 1 < model.config.max_position_embeddings]
    found = [one for text in fitting[:CANDIDATES] if (one := _exact_outputs(model, text, length)) is not None]
    if not found:
        raise MTPError(
            "no prompt suits the test of sampling: everywhere logits tie, or the model's context is too short"
        )
    return max(found, key=lambda one: one.entropy)


def _sample(model: MTPModel, outputs: _Outputs, case: _Case, samples: int, draft_model: MTPModel | None) -> Tensor:
    """How often each output came, and last, how often an impossible one."""
    length = len(next(iter(outputs.places)))
    speculation = case.speculation
    if speculation.decoder != "standard":
        speculation = replace(speculation, num_draft_tokens=length - 2)
    sampling = Sampling(max_tokens=length, temperature=1.0, top_k=TOP_K)
    requests = [
        Request(
            prompt=outputs.prompt,
            sampling=replace(sampling, seed=number) if case.seeded else sampling,
            speculation=speculation,
        )
        for number in range(samples)
    ]
    counts = torch.zeros(len(outputs.places) + 1, dtype=torch.int64)
    with _reproducible():
        for tokens in _run(model, requests, draft_model):
            counts[outputs.places.get(tuple(tokens), -1)] += 1
    return counts


def _run(model: MTPModel, requests: list[Request], draft_model: MTPModel | None) -> list[list[int]]:
    longest = max(len(request.prompt) + request.sampling.max_tokens for request in requests)
    options = EngineOptions(max_batch_size=32, max_model_len=longest + MOST_DRAFTS)
    engine = Engine(model, options=options, draft_model=draft_model)
    found: dict[int, list[int]] = {engine.add(request): [] for request in requests}
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise MTPError(f"decoding failed: {output.error}")
            found[output.request_id] += [token.id for token in output.tokens]
    return list(found.values())


@contextmanager
def _reproducible() -> Iterator[None]:
    """Requests without a seed draw one from Python's generator: the same ones in every audit."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)
