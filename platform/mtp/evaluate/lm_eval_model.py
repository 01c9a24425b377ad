"""The engine as lm-eval sees a model: log-likelihoods of texts, and continuations until a stop string.

Imports lm-eval, which is an extra: import this file late. Knows lm-eval's interface of a model; knows no task.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, StepOutput
from mtp.errors import MTPError
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256
"""Of a continuation whose task names no length, as lm-eval's own models have it."""

Pair = tuple[tuple[str, str], list[int], list[int]]


class EngineLM(TemplateLM):
    """A model folder's model behind lm-eval's interface; texts longer than its context are cut on the left."""

    def __init__(self, model: MTPModel, tokenizer: Tokenizer, batch_size: int) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._engine = Engine(
            model, eos_ids=(tokenizer.eos_id,), options=EngineOptions(max_batch_size=batch_size, prefix_caching=False)
        )
        self._decoder = Speculation(decoder="standard" if model.config.prediction.kind == "none" else "mtp")

    @property
    def eot_token_id(self) -> int:
        """What stands before a text with no context."""
        return self._tokenizer.eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; this tokenizer adds no special ones."""
        return self._tokenizer.encode(string)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, every token predicted once from as much as fits before it."""
        return [self._rolling(self.tok_encode(request.args[0])) for request in requests]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy or sampled continuations, cut before the first stop string."""
        texts = [_Continuation(self._tokenizer, _stops(request.args[1])) for request in requests]

        def take(number: int, output: StepOutput) -> bool:
            return texts[number].push([token.id for token in output.tokens])

        self._run([self._continuation(*request.args) for request in requests], take)
        return [text.finish() for text in texts]

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """(sum of the continuation's log-probabilities, whether each of its tokens is the likeliest) of each pair."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)

        def take(number: int, output: StepOutput) -> bool:
            scores = (output.prompt_logprobs or [])[-len(requests[number][2]) :]
            known = [score for score in scores if score is not None]
            if output.prompt_logprobs is not None:
                likeliest = all(score.top[0][0] == score.token for score in known)
                found[number] = (sum(score.logprob for score in known), likeliest)
            return False

        scored = Sampling(max_tokens=0, prompt_logprobs=True, logprobs=1)
        longest = self._engine.max_model_len
        self._run(
            [
                Request(prompt=(context + continuation)[-longest:], sampling=scored, speculation=_STANDARD)
                for _, context, continuation in requests
            ],
            take,
        )
        return found

    def _rolling(self, ids: list[int]) -> float:
        windows = get_rolling_token_windows(
            token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self._engine.max_model_len - 1, context_len=1
        )
        pairs = [(("", ""), context, new) for context, new in map(make_disjoint_window, windows)]
        return sum(score for score, _ in self._loglikelihood_tokens(pairs))

    def _continuation(self, context: str, asked: dict[str, Any]) -> Request:
        most = min(int(asked.get("max_gen_toks", MAX_NEW_TOKENS)), self._engine.max_model_len - 1)
        prompt = self.tok_encode(context)[-(self._engine.max_model_len - most) :] or [self.prefix_token_id]
        temperature = float(asked.get("temperature", 0.0)) if asked.get("do_sample", True) else 0.0
        sampling = Sampling(max_tokens=most, temperature=temperature, top_p=float(asked.get("top_p", 1.0)))
        return Request(prompt=prompt, sampling=sampling, speculation=self._decoder)

    def _run(self, requests: Iterable[Request], take: Callable[[int, StepOutput], bool]) -> None:
        """Run them all; `take(number, output)` of each output says whether the request has what it needs."""
        numbers = {self._engine.add(request): number for number, request in enumerate(requests)}
        while self._engine.has_work:
            for output in self._engine.step():
                if output.error is not None:
                    raise MTPError(f"the engine failed on a text of a task: {output.error}")
                if take(numbers[output.request_id], output) and output.finish_reason is None:
                    self._engine.cancel(output.request_id)


_STANDARD = Speculation(decoder="standard")


class _Continuation:
    """Text that grows until a stop string is in it. Ids beyond the tokenizer's (a rounded vocabulary) are no text."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._stream, self._vocab_size, self._stops = tokenizer.stream(), tokenizer.vocab_size, stops
        self._text = ""

    def push(self, ids: Sequence[int]) -> bool:
        """Take ids; whether a stop string has come."""
        self._text += self._stream.push(token for token in ids if token < self._vocab_size)
        return any(stop in self._text for stop in self._stops)

    def finish(self) -> str:
        """The text before the first stop string."""
        text = self._text + self._stream.finish()
        return text[: min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=None)]


def _stops(asked: dict[str, Any]) -> list[str]:
    until = asked.get("until") or []
    return [until] if isinstance(until, str) else [stop for stop in until if stop]
