"""True acceptance and its price: held-out prompts continued by the engine, with K = 0..n-1 drafts a step.

Every prompt is continued with each K in turn before the next one, so that a machine that slows down slows all of them
alike; then once more with sampling. One prompt at a time: a batch would hide what a single reader waits for. Counts of
several measurements add up. Knows the engine's interface; knows nothing of text.
"""

import time
from collections.abc import Sequence

import torch
from pydantic import BaseModel
from torch import Tensor

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation
from mtp.errors import MTPError
from mtp.evaluate.report import Decoding, DraftLength, SampledDecoding
from mtp.model import MTPModel


class DecodeCounts(BaseModel):
    """What continuing some prompts in one way took."""

    drafts: int
    """K."""
    temperature: float = 0.0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    draft_seconds: float = 0.0
    drafted: list[int]
    """Per position: drafts that were verified."""
    accepted: list[int]

    def plus(self, other: "DecodeCounts") -> "DecodeCounts":
        """Both together."""
        return DecodeCounts(
            drafts=self.drafts,
            temperature=self.temperature,
            tokens=self.tokens + other.tokens,
            steps=self.steps + other.steps,
            seconds=self.seconds + other.seconds,
            draft_seconds=self.draft_seconds + other.draft_seconds,
            drafted=[a + b for a, b in zip(self.drafted, other.drafted, strict=True)],
            accepted=[a + b for a, b in zip(self.accepted, other.accepted, strict=True)],
        )

    @property
    def acceptance(self) -> list[float]:
        """Per position: share of the drafts there that were accepted, all before them included."""
        return [_ratio(stood, tried) for stood, tried in zip(self.accepted, self.drafted, strict=True)]

    @property
    def tokens_per_step(self) -> float:
        """Emitted tokens over target passes."""
        return _ratio(self.tokens, self.steps)

    @property
    def tokens_per_second(self) -> float:
        """Without the prompts' own passes."""
        return _ratio(self.tokens, self.seconds)


class PromptCounts(BaseModel):
    """What continuing some prompts in every way took."""

    prompts: int
    identical: int
    """Prompts whose greedy output was the same with every K."""
    runs: list[DecodeCounts]
    """Greedy with K = 0..n-1, then sampled with K = n-1 (left out for a model without modules)."""

    def plus(self, other: "PromptCounts") -> "PromptCounts":
        """Both together."""
        return PromptCounts(
            prompts=self.prompts + other.prompts,
            identical=self.identical + other.identical,
            runs=[ours.plus(theirs) for ours, theirs in zip(self.runs, other.runs, strict=True)],
        )


def held_out_prompts(tokens: Tensor, document: Tensor, count: int, length: int) -> list[list[int]]:
    """Up to `count` prompts: the first tokens of rows spread over the data, at most `length`, within one document.

    Args:
        tokens: (R, T) int64.
        document: (R, T) int32, -1 = padding.
        count: how many.
        length: tokens of a prompt; the rest of the row is left to compare with.
    """
    usable = torch.nonzero(document[:, 0] >= 0).squeeze(1)
    chosen = usable[torch.linspace(0, len(usable) - 1, min(count, len(usable))).long()] if len(usable) else usable
    prompts = []
    for row in chosen.tolist():
        inside = int((document[row, :length] == document[row, 0]).sum())
        prompts.append(tokens[row, :inside].tolist())
    return prompts


def measure_decoding(
    model: MTPModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    eos_ids: tuple[int, ...] = (),
    temperature: float = 1.0,
) -> Decoding:
    """Continue every prompt by up to `new_tokens`: greedily with K = 0..n-1 drafts, and sampled with K = n-1.

    Raises:
        MTPError: the model gave logits that are not finite.
    """
    return summary(count_decoding(model, prompts, new_tokens, eos_ids, temperature))


def count_decoding(
    model: MTPModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    eos_ids: tuple[int, ...] = (),
    temperature: float = 1.0,
    lengths: Sequence[int] | None = None,
) -> PromptCounts:
    """The counts behind `measure_decoding`; `lengths` are the K of the greedy runs, 0 first (default: all).

    Raises:
        MTPError: the model gave logits that are not finite.
    """
    most = model.config.n_future - 1
    longest = min(max(map(len, prompts)) + new_tokens, model.config.max_position_embeddings)
    options = EngineOptions(max_batch_size=1, max_model_len=longest, prefix_caching=False)
    greedy = [_Run(model, k, 0.0, eos_ids, options) for k in (range(most + 1) if lengths is None else lengths)]
    sampled = [_Run(model, most, temperature, eos_ids, options)] if most and temperature else []
    greedy[0].continue_prompt(prompts[0], new_tokens, count=False)  # the first pass of a process is slow
    identical = 0
    for prompt in prompts:
        outputs = [run.continue_prompt(prompt, new_tokens) for run in greedy]
        identical += all(output == outputs[0] for output in outputs)
        for run in sampled:
            run.continue_prompt(prompt, new_tokens)
    return PromptCounts(prompts=len(prompts), identical=identical, runs=[run.counts for run in (*greedy, *sampled)])


def summary(counts: PromptCounts) -> Decoding:
    """The figures that the counts give."""
    greedy = [run for run in counts.runs if not run.temperature]
    standard, drafting = greedy[0], [run for run in greedy if run.drafts]
    draft_cost = _draft_cost(standard, drafting[-1]) if drafting else 0.0
    return Decoding(
        prompts=counts.prompts,
        tokens=standard.tokens,
        identical=counts.identical,
        standard_tokens_per_second=standard.tokens_per_second,
        draft_cost=draft_cost,
        lengths=[_draft_length(run, standard, draft_cost) for run in drafting],
        sampled=next((_sampled(run) for run in counts.runs if run.temperature), None),
    )


class _Run:
    """One engine with a fixed number of drafts a step, and the clock beside it."""

    def __init__(
        self, model: MTPModel, drafts: int, temperature: float, eos_ids: tuple[int, ...], options: EngineOptions
    ) -> None:
        self.engine = Engine(model, eos_ids=eos_ids, options=options)
        self.speculation = Speculation(decoder="mtp" if drafts else "standard", num_draft_tokens=drafts)
        self.counts = DecodeCounts(drafts=drafts, temperature=temperature, drafted=[0] * drafts, accepted=[0] * drafts)

    def continue_prompt(self, prompt: Sequence[int], new_tokens: int, *, count: bool = True) -> list[int]:
        """The continuation. Its first token comes with the prompt's own pass, and only its drafts count."""
        room = self.engine.max_model_len - len(prompt)
        sampling = Sampling(max_tokens=min(new_tokens, room), temperature=self.counts.temperature)
        self.engine.add(Request(prompt=prompt, sampling=sampling, speculation=self.speculation))
        drafting = self.engine.stats.draft_seconds
        output = self._step(count)
        first, first_drafts = len(output), self.engine.stats.draft_seconds - drafting
        began, steps = time.perf_counter(), 0
        while self.engine.has_work:
            output += self._step(count)
            steps += 1
        if count:
            self.counts.seconds += time.perf_counter() - began + first_drafts
            self.counts.draft_seconds += self.engine.stats.draft_seconds - drafting
            self.counts.tokens += len(output) - first
            self.counts.steps += steps
        return output

    def _step(self, count: bool) -> list[int]:
        ids: list[int] = []
        for output in self.engine.step():
            if output.error is not None:
                raise MTPError(f"decoding a held-out prompt failed: {output.error}")
            ids += [token.id for token in output.tokens]
            if output.stats is not None and count:
                self._add(output.stats.drafted_per_position, output.stats.accepted_per_position)
        return ids

    def _add(self, drafted: Sequence[int], accepted: Sequence[int]) -> None:
        for position, (tried, stood) in enumerate(zip(drafted, accepted, strict=True)):
            self.counts.drafted[position] += tried
            self.counts.accepted[position] += stood


def _draft_length(run: DecodeCounts, standard: DecodeCounts, draft_cost: float) -> DraftLength:
    return DraftLength(
        num_draft_tokens=run.drafts,
        acceptance=run.acceptance,
        tokens_per_step=run.tokens_per_step,
        predicted_speedup=predicted_speedup(run.acceptance, draft_cost),
        measured_speedup=_ratio(run.tokens_per_second, standard.tokens_per_second),
    )


def _sampled(run: DecodeCounts) -> SampledDecoding:
    return SampledDecoding(
        temperature=run.temperature,
        tokens=run.tokens,
        acceptance=run.acceptance,
        tokens_per_step=run.tokens_per_step,
    )


def _draft_cost(standard: DecodeCounts, drafting: DecodeCounts) -> float:
    """c: seconds of a draft over seconds of a target pass."""
    return _ratio(_ratio(drafting.draft_seconds, sum(drafting.drafted)), _ratio(standard.seconds, standard.steps))


def predicted_speedup(acceptance: Sequence[float], draft_cost: float) -> float:
    """(1 + sum_k A_k) / (1 + K c), with A_k the rate at which drafts 1..k are all accepted (Leviathan et al. 2023).

    With A_k = alpha^k this is their (1 - alpha^(K+1)) / ((1 - alpha) (K c + 1)).
    """
    return (1.0 + sum(acceptance)) / (1.0 + len(acceptance) * draft_cost)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
