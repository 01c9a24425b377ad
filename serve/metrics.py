"""Counters and histograms of one replica in Prometheus' text format, named as vLLM names them (`vllm:` left out)."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mtp.decode import Engine, StepOutput
from serve.errors import APIError

if TYPE_CHECKING:
    from serve.choices import Choice

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The registry of a replica; the engine's thread calls `step`, handlers call `request`."""

    def __init__(self, engine: Engine, model_name: str) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        label = {"model_name": model_name}

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(f"mtp_{name}", text, ["model_name", *more], registry=self._registry)

        self._requests = counter("requests", "Requests by outcome.", "outcome")
        self._prompt = counter("prompt_tokens", "Prompt tokens taken.").labels(**label)
        self._generated = counter("generation_tokens", "Tokens generated.").labels(**label)
        self._drafts = counter("spec_decode_num_drafts", "Steps that verified drafts.").labels(**label)
        self._drafted = counter("spec_decode_num_draft_tokens", "Tokens drafted.").labels(**label)
        self._accepted = counter("spec_decode_num_accepted_tokens", "Drafts accepted.").labels(**label)
        self._by_position = counter("spec_decode_num_accepted_tokens_per_pos", "Drafts accepted.", "position")
        self._latency = Histogram(
            "mtp_e2e_request_latency_seconds",
            "From arrival to the last token.",
            ["model_name"],
            buckets=SECONDS,
            registry=self._registry,
        ).labels(**label)
        self._gauge("num_requests_running", "Requests in the batch.", label, lambda: engine.running)
        self._gauge("num_requests_waiting", "Requests in the queue.", label, lambda: engine.waiting)
        self._gauge("kv_cache_usage_perc", "Share of the cache in use, 0 to 1.", label, lambda: engine.cache_use)
        self._gauge("prefix_cache_queries", "Blocks looked up.", label, lambda: engine.scheduler.prefix_queries)
        self._gauge("prefix_cache_hits", "Blocks found.", label, lambda: engine.scheduler.prefix_hits)
        self._gauge("num_preemptions", "Requests preempted.", label, lambda: engine.scheduler.preemptions)
        self._label = label

    def step(self, outputs: list[StepOutput]) -> None:
        """Count what an engine's step brought."""
        for output in outputs:
            self._generated.inc(len(output.tokens))
            if output.stats is None or not output.stats.drafted_per_position:
                continue
            self._drafts.inc(output.stats.drafted_per_position[0])
            self._drafted.inc(sum(output.stats.drafted_per_position))
            self._accepted.inc(sum(output.stats.accepted_per_position))
            for position, count in enumerate(output.stats.accepted_per_position):
                self._by_position.labels(**self._label, position=str(position)).inc(count)

    @contextmanager
    def request(self, choices: "Sequence[Choice]") -> Iterator[None]:
        """One HTTP request from its start to its end."""
        began, outcome = time.monotonic(), "ok"
        self._prompt.inc(sum(len(choice.prompt) for choice in choices))
        try:
            yield
        except APIError:
            outcome = "error"
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            self._requests.labels(**self._label, outcome=outcome).inc()
            self._latency.observe(time.monotonic() - began)

    def text(self) -> bytes:
        """The page that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str, label: dict[str, str], value: "object") -> None:
        gauge = Gauge(f"mtp_{name}", text, ["model_name"], registry=self._registry).labels(**label)
        gauge.set_function(value)  # type: ignore[arg-type]
