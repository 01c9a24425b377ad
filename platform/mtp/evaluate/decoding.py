"""True acceptance and its price: held-out prompts continued by the engine, with K = 0..n-1 drafts a step.

Every prompt is continued with each K in turn before the next one, so that a machine that slows down slows all of them
alike. One prompt at a time: a batch would hide what a single reader waits for. Knows the engine's interface; knows
nothing of text.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation
from mtp.errors import MTPError
from mtp.evaluate.report import Decoding, DraftLength
from mtp.model import MTPModel


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
    model: MTPModel, prompts: Sequence[Sequence[int]], new_tokens: int, eos_ids: tuple[int, ...] = ()
) -> Decoding:
    """Continue every prompt by up to `new_tokens` greedily, with standard decoding and with K = 1..n-1 drafts.

    Raises:
        MTPError: the model gave logits that are not finite.
    """
    most = model.config.n_future - 1
    longest = min(max(map(len, prompts)) + new_tokens, model.config.max_position_embeddings)
    options = EngineOptions(max_batch_size=1, max_model_len=longest, prefix_caching=False)
    runs = [_Run(model, k, eos_ids, options) for k in range(most + 1)]
    runs[0].continue_prompt(prompts[0], new_tokens, count=False)  # the first pass of a process is slow
    identical = 0
    for prompt in prompts:
        outputs = [run.continue_prompt(prompt, new_tokens) for run in runs]
        identical += all(output == outputs[0] for output in outputs)
    standard, *drafting = runs
    draft_cost = _draft_cost(standard, drafting[-1]) if drafting else 0.0
    return Decoding(
        prompts=len(prompts),
        tokens=standard.tokens,
        identical=identical,
        standard_tokens_per_second=standard.tokens_per_second,
        draft_cost=draft_cost,
        lengths=[_draft_length(run, standard, draft_cost) for run in drafting],
    )


class _Run:
    """One engine with a fixed number of drafts a step, and the clock beside it."""

    def __init__(self, model: MTPModel, drafts: int, eos_ids: tuple[int, ...], options: EngineOptions) -> None:
        self.drafts = drafts
        self.engine = Engine(model, eos_ids=eos_ids, options=options)
        self.speculation = Speculation(decoder="mtp" if drafts else "standard", num_draft_tokens=drafts)
        self.tokens = 0
        self.steps = 0
        self.seconds = 0.0
        self.drafted = [0] * drafts
        self.accepted = [0] * drafts
        self.draft_seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        return _ratio(self.tokens, self.seconds)

    def continue_prompt(self, prompt: Sequence[int], new_tokens: int, *, count: bool = True) -> list[int]:
        """The greedy continuation. Its first token comes with the prompt's own pass, and only its drafts count."""
        room = self.engine.max_model_len - len(prompt)
        sampling = Sampling(max_tokens=min(new_tokens, room))
        self.engine.add(Request(prompt=prompt, sampling=sampling, speculation=self.speculation))
        drafting = self.engine.stats.draft_seconds
        output = self._step(count)
        first, first_drafts = len(output), self.engine.stats.draft_seconds - drafting
        began, steps = time.perf_counter(), 0
        while self.engine.has_work:
            output += self._step(count)
            steps += 1
        if count:
            self.seconds += time.perf_counter() - began + first_drafts
            self.draft_seconds += self.engine.stats.draft_seconds - drafting
            self.tokens += len(output) - first
            self.steps += steps
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
            self.drafted[position] += tried
            self.accepted[position] += stood


def _draft_length(run: _Run, standard: _Run, draft_cost: float) -> DraftLength:
    acceptance = [_ratio(stood, tried) for stood, tried in zip(run.accepted, run.drafted, strict=True)]
    return DraftLength(
        num_draft_tokens=run.drafts,
        acceptance=acceptance,
        tokens_per_step=_ratio(run.tokens, run.steps),
        predicted_speedup=predicted_speedup(acceptance, draft_cost),
        measured_speedup=_ratio(run.tokens_per_second, standard.tokens_per_second),
    )


def _draft_cost(standard: _Run, drafting: _Run) -> float:
    """c: seconds of a draft over seconds of a target pass."""
    return _ratio(_ratio(drafting.draft_seconds, sum(drafting.drafted)), _ratio(standard.seconds, standard.steps))


def predicted_speedup(acceptance: Sequence[float], draft_cost: float) -> float:
    """(1 + sum_k A_k) / (1 + K c), with A_k the rate at which drafts 1..k are all accepted (Leviathan et al. 2023).

    With A_k = alpha^k this is their (1 - alpha^(K+1)) / ((1 - alpha) (K c + 1)).
    """
    return (1.0 + sum(acceptance)) / (1.0 + len(acceptance) * draft_cost)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
