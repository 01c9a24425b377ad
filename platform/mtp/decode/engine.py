"""The inference engine: requests of token ids in, tokens out, a step at a time.

A step plans who works (scheduler.py), makes drafts (drafting.py) from the hidden states that the last pass left behind,
runs one target pass over everybody's last token and drafts (and one over the chunks of new prompts), and decides which
drafts stand (verification.py). Single-threaded; knows nothing of text, clocks of users, or the network.
"""

import time
from itertools import count

import numpy as np
import torch
from torch import Tensor

from mtp.decode.acceptance import Drafted
from mtp.decode.admission import MODULE_DECODERS, check_request, is_adaptive
from mtp.decode.engine_parts import build_parts
from mtp.decode.grammar import GrammarCompiler
from mtp.decode.logprobs import add_prompt_logprobs, token_logprobs
from mtp.decode.network import Window
from mtp.decode.options import EngineOptions
from mtp.decode.penalties import TokenCounts
from mtp.decode.request import FinishReason, Request, StepOutput, Token, TokenLogprob
from mtp.decode.rows import row_numbers
from mtp.decode.scheduler import Scheduler
from mtp.decode.sequence import Sequence
from mtp.decode.stats import DecodeStats
from mtp.decode.verification import Emission
from mtp.errors import UsageError
from mtp.model import MTPModel


class Engine:
    """Continuous batching over one model.

    Example:
        engine = Engine(model, eos_ids=(0,))
        number = engine.add(Request(prompt=[5, 6, 7]))
        while engine.has_work:
            for output in engine.step(): ...
    """

    def __init__(
        self,
        model: MTPModel,
        *,
        eos_ids: tuple[int, ...] = (),
        options: EngineOptions | None = None,
        stats: DecodeStats | None = None,
        grammars: GrammarCompiler | None = None,
        draft_model: MTPModel | None = None,
    ) -> None:
        """`grammars` lets requests carry constraints, `draft_model` lets them choose the decoder of that name."""
        self.model, self._draft_model = model, draft_model
        self._grammars = grammars
        self.eos_ids = eos_ids
        self.options = options or EngineOptions()
        self.stats = stats or DecodeStats()
        self.max_model_len = self.options.max_model_len or model.config.max_position_embeddings
        self._device = model.lm_head.weight.device
        self._ids = count()
        self._live: dict[int, Sequence] = {}
        self._build_memory()

    def add(self, request: Request) -> int:
        """Queue a request.

        Returns:
            Its number, which the outputs carry.

        Raises:
            UsageError: the request makes no sense for this model; nothing else is touched.
        """
        self.check(request)
        drafts = self._limits.choose(request.speculation)
        modules = drafts if request.speculation.decoder in MODULE_DECODERS else 0
        if not self.model.prediction.chained:
            modules = min(modules, 1)
        sequence = Sequence(next(self._ids), request, self._scheduler.now, drafts, modules)
        if self._controller is not None and is_adaptive(request.speculation):
            self._controller.meet(sequence)
        if request.sampling.penalised:
            sequence.counts = TokenCounts(request.prompt, self.model.config.vocab_size, self._device)
        if request.sampling.constrained:
            sequence.grammar = self._compiler.state(request.sampling)
        if request.emitted:
            self._catch_up(sequence, list(request.emitted))
        self._live[sequence.id] = sequence
        self._scheduler.add(sequence)
        return sequence.id

    @staticmethod
    def _catch_up(sequence: Sequence, emitted: list[int]) -> None:
        """Let what looks at the output know of the part that another engine made."""
        if sequence.counts is not None:
            sequence.counts.add(emitted)
        if sequence.grammar is not None:
            sequence.grammar.advance(emitted)

    def check(self, request: Request) -> None:
        """Raise what `add` would raise for this request, from any thread, and do nothing else."""
        cache_tokens = self._pool.size * self.options.block_size
        check_request(request, self.model.config, self.max_model_len, self._limits, cache_tokens)
        if request.sampling.constrained:
            self._compiler.check(request.sampling)

    def cancel(self, request_id: int) -> bool:
        """Drop a request now, and free its memory; False if it has already ended."""
        sequence = self._live.get(request_id)
        if sequence is None:
            return False
        self._end(sequence)
        return True

    @property
    def _compiler(self) -> GrammarCompiler:
        if self._grammars is None:
            raise UsageError("this engine was made without a tokenizer's GrammarCompiler, so it takes no constraints")
        return self._grammars

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._live)

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._scheduler.waiting)

    @property
    def cache_use(self) -> float:
        """Share of the cache's blocks in use."""
        return self._pool.in_use / self._pool.size

    @property
    def scheduler(self) -> Scheduler:
        """Queue, preemptions and prefix hits, for whoever watches."""
        return self._scheduler

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Do one step's work; returns what it brought, one output a request that got tokens or ended."""
        if self._controller is not None:
            self._controller.settle(min(len(self._live), self.options.max_batch_size))
        plan = self._scheduler.plan()
        outputs: list[StepOutput] = []
        alive: list[Sequence] = []
        if plan.prefills:
            alive += self._prefill(plan.prefills, outputs)
        if plan.decodes:
            alive += self._decode(plan.decodes, outputs)
        if alive:
            self._drafting.decide(alive)
        for sequence in self._scheduler.running:
            self._scheduler.publish(sequence)
        return outputs

    def _prefill(self, chunks: list[tuple[Sequence, int]], outputs: list[StepOutput]) -> list[Sequence]:
        """Compute chunks of known tokens; those whose last token is among them emit. Returns who goes on drafting."""
        began = time.perf_counter()
        sequences = [sequence for sequence, _ in chunks]
        counts = np.array([chunk for _, chunk in chunks])
        starts, _, hidden = self._target_pass(sequences, counts)
        for sequence, chunk in chunks:
            sequence.computed += chunk
        self._drafting.fill(sequences, starts, counts, hidden)
        for place, sequence in enumerate(sequences):
            if sequence.prompt_logprobs is not None:
                states = hidden[place, : counts[place]]
                add_prompt_logprobs(sequence, int(starts[place]), self._network.logits(states))
        done = [place for place, sequence in enumerate(sequences) if not sequence.uncomputed]
        if not done:
            self.stats.prefill_seconds += time.perf_counter() - began
            return []
        last = hidden[done, torch.from_numpy(counts[done] - 1)].unsqueeze(1)
        emitters = [sequences[place] for place in done]
        logits = self._network.logits(last)
        emission = self._judge(emitters, logits, self._no_drafts(len(done)))
        alive = self._hand_out(emitters, emission, logits, outputs, began)
        self.stats.prefill_seconds += time.perf_counter() - began
        return alive

    def _decode(self, sequences: list[Sequence], outputs: list[StepOutput]) -> list[Sequence]:
        """Draft, and verify everybody's drafts in one target pass. Returns who goes on drafting."""
        began = time.perf_counter()
        logits: Tensor | None = None
        logprobs = any(sequence.request.sampling.logprobs is not None for sequence in sequences)
        greedy = self._greedy if not logprobs and self._verifier.greedy(sequences) else None
        made = self._drafting.draft(sequences, at_once=greedy is not None)
        lengths = [sequence.drafts for sequence in sequences]
        drafting, drafts = made.seconds, np.array(lengths)
        if greedy is not None:
            starts = np.array([sequence.computed for sequence in sequences])
            emission, seconds = greedy.step(row_numbers(sequences), starts, drafts + 1, made.left)
            drafting += seconds
        else:
            starts, tokens, hidden = self._target_pass(sequences, drafts + 1)
            self._drafting.remember(sequences, starts, drafts + 1, hidden)
            logits = self._network.logits(hidden)
            q = None if made.probabilities is None else made.probabilities[:, : max(lengths)]
            emission = self._judge(sequences, logits, Drafted(tokens[:, 1:], self._rows.tensor(drafts), q))
        for sequence in sequences:
            sequence.computed += 1
            if sequence.drafts:
                sequence.stats.draft_seconds += drafting
        alive = self._hand_out(sequences, emission, logits, outputs, began + drafting)
        seconds = time.perf_counter() - began
        self.stats.draft_seconds += drafting
        self.stats.verify_seconds += seconds - drafting
        if self._controller is not None:
            self._controller.verified(len(lengths), sum(lengths), seconds - made.others_seconds)
        return alive

    def _target_pass(self, sequences: list[Sequence], counts: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
        """The backbone over the next `counts` tokens of each sequence.

        Returns:
            The starts (B,), the tokens (B, q), and h^0 (B, q, d).
        """
        rows = row_numbers(sequences)
        starts = np.array([sequence.computed for sequence in sequences])
        tokens = self._rows.read(rows, self._rows.window(starts, counts))
        return starts, tokens, self._network.backbone(tokens, Window(rows, starts, counts))

    def _judge(self, sequences: list[Sequence], logits: Tensor, drafted: Drafted) -> Emission:
        """Decide what stands of logits (R, K + 1, V), and write it behind each row's tokens."""
        verdict, emission = self._verifier.verify(sequences, logits, drafted)
        lengths = np.array([len(sequence.tokens) for sequence in sequences])
        self._rows.write(row_numbers(sequences), lengths, verdict.tokens)
        return emission

    def _hand_out(
        self,
        sequences: list[Sequence],
        emission: Emission,
        logits: Tensor | None,
        outputs: list[StepOutput],
        began: float,
    ) -> list[Sequence]:
        """Give every request what stands, and end who is done. Returns who goes on.

        `logits` (R, K + 1, V), unless nobody wants any.
        """
        seconds = time.perf_counter() - began
        alive = []
        for place, sequence in enumerate(sequences):
            output = self._advance(sequence, place, emission, logits)
            sequence.stats.verify_seconds += seconds
            outputs.append(output)
            if output.finish_reason is None:
                alive.append(sequence)
            else:
                output.stats = sequence.stats
                self._end(sequence, forget=output.error is not None)
        return alive

    def _advance(self, sequence: Sequence, place: int, emission: Emission, logits: Tensor | None) -> StepOutput:
        """Append one row's emission to its sequence, cut off where the request ends."""
        output = StepOutput(sequence.id, [], so_far=sequence.stats)
        first = not sequence.emitted
        drafted, accepted = sequence.drafts, emission.accepted[place]
        sequence.drafts = 0
        if not emission.finite[place]:
            output.finish_reason = "error"
            output.error = "the model gave logits that are not finite (NaN or infinity) for this request"
            return output
        if first and sequence.prompt_logprobs is not None:
            output.prompt_logprobs = sequence.prompt_logprobs
        ids, output.finish_reason = self._cut(sequence, emission.tokens[place])
        if sequence.grammar is not None:
            taken, ended, output.error = sequence.grammar.advance(ids)
            ids = ids[:taken]
            if ended:
                output.finish_reason = "stop" if output.error is None else "error"
        wanted = sequence.request.sampling.logprobs
        likely: list[TokenLogprob | None] = [None] * len(ids)
        if wanted is not None and logits is not None:
            likely = [*token_logprobs(logits[place, : len(ids)], ids, wanted)]
        origins = [*range(1, accepted + 1), 0]
        output.tokens = [Token(*token) for token in zip(ids, origins, likely, strict=False)]
        sequence.tokens.extend(ids)
        stood = min(accepted, len(ids))
        sequence.computed += stood
        if sequence.counts is not None and ids:
            sequence.counts.add(ids)
        sequence.stats.count_step(len(ids), drafted, stood)
        self.stats.count_step(len(ids), drafted, stood)
        if self._controller is not None and sequence.draft_limit:
            self._controller.observe(sequence, drafted, accepted)
        return output

    def _cut(self, sequence: Sequence, ids: list[int]) -> tuple[list[int], FinishReason | None]:
        """As much of `ids` as the request takes, and why it ends there, if it does."""
        sampling = sequence.request.sampling
        room = min(sequence.remaining, self.max_model_len - len(sequence.tokens))
        for place, token in enumerate(ids[:room]):
            stops = token in sampling.stop_ids or (token in self.eos_ids and not sampling.ignore_eos)
            if stops and sequence.emitted + place + 1 > sampling.min_tokens:
                return ids[: place + 1], "stop"
        return ids[:room], "length" if len(ids) >= room else None

    def _end(self, sequence: Sequence, *, forget: bool = False) -> None:
        del self._live[sequence.id]
        self._drafting.forget(sequence)
        if self._controller is not None:
            self._controller.forget(sequence)
        retired = self._scheduler.finish(sequence, forget=forget)
        if forget and retired:
            self._pages.erase(retired)

    def _build_memory(self) -> None:
        parts = build_parts(self.model, self.options, self.max_model_len, self.eos_ids, self._draft_model)
        self._limits, self._pages, self._pool, self._rows = parts.limits, parts.pages, parts.pool, parts.rows
        self._network, self._greedy, self._scheduler = parts.network, parts.greedy, parts.scheduler
        self._verifier = parts.verifier
        self._controller, self._drafting = parts.controller, parts.drafting

    def _no_drafts(self, rows: int) -> Drafted:
        none = torch.zeros(rows, 0, dtype=torch.int64, device=self._device)
        return Drafted(none, torch.zeros(rows, dtype=torch.int64, device=self._device), None)
