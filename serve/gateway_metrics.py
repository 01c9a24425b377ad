"""Metrics of requests as clients see them, through ray.util.metrics; names are vLLM's with `mtp_` for `vllm:`."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from ray.util.metrics import Gauge, Histogram

from serve.choices import Choice
from serve.counter import Counter
from serve.errors import APIError

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
TOKEN_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]
LABELS = ("model_name", "model_uri")


class GatewayMetrics:
    """Of one gateway, all models."""

    def __init__(self) -> None:
        self._answers = Counter("mtp_http_requests", "HTTP answers by path and status.", ("path", "status"))
        self._requests = Counter("mtp_request_success", "Generation requests by outcome.", (*LABELS, "outcome"))
        self._prompt = Counter("mtp_prompt_tokens", "Prompt tokens taken.", LABELS)
        self._completion = Counter("mtp_completion_tokens", "Tokens sent to clients.", LABELS)
        self._first = Histogram("mtp_time_to_first_token_seconds", "Arrival to first token.", SECONDS, LABELS)
        self._between = Histogram(
            "mtp_inter_token_latency_seconds", "Between arrivals of tokens.", TOKEN_SECONDS, LABELS
        )
        self._per_token = Histogram(
            "mtp_time_per_output_token_seconds", "Mean of a request after its first token.", TOKEN_SECONDS, LABELS
        )
        self._whole = Histogram("mtp_e2e_request_latency_seconds", "Arrival to last token.", SECONDS, LABELS)
        self._queue = Histogram("mtp_request_queue_time_seconds", "Arrival until a replica takes it.", SECONDS, LABELS)
        self._decode = Histogram("mtp_request_decode_time_seconds", "First to last token.", SECONDS, LABELS)
        self._prefill = Histogram("mtp_request_prefill_time_seconds", "Taken until first token.", SECONDS, LABELS)
        self._active = Gauge("mtp_gateway_requests_active", "Generation requests at this gateway.", LABELS)
        self._resumed = Counter("mtp_requests_resumed", "Requests that went on on another replica.", LABELS)
        self._count: dict[tuple[str, str], int] = {}

    def serves(self, name: str, uri: str) -> None:
        """A version is served now: nothing of it has been counted yet."""
        label = {"model_name": name, "model_uri": uri}
        for counter in (self._prompt, self._completion, self._resumed):
            counter.inc(0, label)
        for outcome in ("ok", "refused", "error", "cancelled"):
            self._requests.inc(0, {**label, "outcome": outcome})

    def answered(self, path: str, status: int) -> None:
        """One HTTP answer; `path` is a route, never what a client made up."""
        self._answers.inc(1, {"path": path, "status": str(status)})

    def resumed(self, name: str, uri: str) -> None:
        """A replica died and another one went on."""
        self._resumed.inc(1, {"model_name": name, "model_uri": uri})

    @contextmanager
    def request(self, name: str, uri: str, choices: Sequence[Choice]) -> Iterator[None]:
        """One generation request from its arrival to its end."""
        began, outcome = time.monotonic(), "ok"
        label = {"model_name": name, "model_uri": uri}
        self._change((name, uri), 1)
        self._prompt.inc(sum(len(choice.prompt) for choice in choices), label)
        try:
            yield
        except APIError as error:
            outcome = "refused" if error.status < 500 else "error"
            raise
        except Exception:
            outcome = "refused"
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            self._change((name, uri), -1)
            self._requests.inc(1, {**label, "outcome": outcome})
            self._whole.observe(time.monotonic() - began, label)
            for choice in choices:
                self._observe(choice, began, label)

    def _observe(self, choice: Choice, began: float, label: dict[str, str]) -> None:
        if choice.taken is not None:
            self._queue.observe(max(choice.taken - began, 0.0), label)
        if not choice.arrivals:
            return
        first, last = choice.arrivals[0], choice.arrivals[-1]
        self._completion.inc(max(choice.text.tokens, 1), label)
        self._first.observe(first - began, label)
        self._decode.observe(last - first, label)
        if choice.taken is not None:
            self._prefill.observe(max(first - choice.taken, 0.0), label)
        if choice.text.tokens > 1:
            self._per_token.observe((last - first) / (choice.text.tokens - 1), label)
        for earlier, later in pairwise(choice.arrivals):
            self._between.observe(later - earlier, label)

    def _change(self, model: tuple[str, str], by: int) -> None:
        self._count[model] = self._count.get(model, 0) + by
        self._active.set(self._count[model], {"model_name": model[0], "model_uri": model[1]})
