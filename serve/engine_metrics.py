"""Counts of one replica's engine, published through ray.util.metrics and summed up for the autoscaler.

The names are vLLM's with `mtp_` for `vllm:`. The engine's thread calls `step` after every step; nothing here blocks.
Knows what every engine can say of itself, and not which engine it is.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ray.util.metrics import Gauge

from mtp.decode import StepOutput
from serve.counter import Counter

WINDOW_S = 10.0
"""Rates are of the last so many seconds."""
LABELS = ("model_name", "model_uri")


class EngineState(NamedTuple):
    """What an engine holds now, and what it has counted since it started."""

    running: int = 0
    waiting: int = 0
    cache_use: float = 0.0
    """Share of the cache in use, 0 to 1."""
    tokens_in_flight: int = 0
    """Tokens that its requests still want, prompts not yet computed included."""
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    """Of the queries; both in blocks or both in tokens."""


class EngineMetrics:
    """Of one engine."""

    def __init__(self, read: Callable[[], EngineState], model_name: str, model_uri: str) -> None:
        """`read` is called at most once a second while the engine works."""
        self._read = read
        self._state = EngineState()
        self._label = {"model_name": model_name, "model_uri": model_uri}
        self._steps: deque[tuple[float, int, int]] = deque()
        """(when, tokens, passes) of steps in the window."""
        self._forgetting = threading.Lock()
        self._drafts = Counter("mtp_spec_decode_num_drafts", "Steps of requests that verified drafts.", LABELS)
        self._drafted = Counter("mtp_spec_decode_num_draft_tokens", "Tokens drafted.", LABELS)
        self._accepted = Counter("mtp_spec_decode_num_accepted_tokens", "Drafts accepted.", LABELS)
        self._by_position = Counter(
            "mtp_spec_decode_num_accepted_tokens_per_pos", "Drafts accepted, by position.", (*LABELS, "position")
        )
        self._chosen = Counter("mtp_spec_decode_steps", "Steps of requests by drafts made.", (*LABELS, "drafts"))
        self._generated = Counter("mtp_generation_tokens", "Tokens generated.", LABELS)
        self._preemptions = Counter("mtp_num_preemptions", "Requests preempted for want of cache.", LABELS)
        self._queries = Counter("mtp_prefix_cache_queries", "Parts of prompts looked up at admission.", LABELS)
        self._hits = Counter("mtp_prefix_cache_hits", "Parts of prompts found in the cache.", LABELS)
        self._gauges = {
            "running": Gauge("mtp_num_requests_running", "Requests in the batch.", LABELS),
            "waiting": Gauge("mtp_num_requests_waiting", "Requests in the engine's queue.", LABELS),
            "cache_use": Gauge("mtp_kv_cache_usage_perc", "Share of the cache in use, 0 to 1.", LABELS),
        }
        self._per_step = Gauge("mtp_tokens_per_step", "Tokens emitted a target pass, of the last steps.", LABELS)
        self._known = EngineState()
        self._published = 0.0
        self._tokens = self._tokens_told = 0
        """Told of when the rest is: Ray's counters let go of the interpreter, and a step may have to wait for it."""
        for counter in (self._drafts, self._drafted, self._accepted, self._generated):
            counter.inc(0, self._label)

    def step(self, outputs: list[StepOutput], *, idle: bool = False) -> None:
        """Count what an engine's step brought; `idle` when no work is left after it."""
        self.count(outputs)
        now = time.monotonic()
        if idle or now - self._published > 1.0:
            self._published = now
            self.publish()

    def count(self, outputs: list[StepOutput]) -> None:
        """Count it alone; it shows when something publishes."""
        tokens = sum(len(output.tokens) for output in outputs)
        if outputs:
            self._steps.append((time.monotonic(), tokens, len(outputs)))
        self._tokens += tokens
        for output in outputs:
            if output.stats is not None and output.stats.drafted_per_position:
                self._count_drafts(output)

    def load(self) -> dict[str, float]:
        """Requests and the tokens they still want, requests' passes a second, and how many tokens come a pass."""
        steps = self._recent_steps()
        tokens, passes = sum(step[1] for step in steps), sum(step[2] for step in steps)
        span = max(time.monotonic() - steps[0][0], 0.1) if steps else WINDOW_S
        return {
            "requests": float(self._state.running + self._state.waiting),
            "waiting": float(self._state.waiting),
            "tokens_in_flight": float(self._state.tokens_in_flight),
            "passes_per_s": passes / span,
            "tokens_per_step": tokens / passes if passes else 1.0,
        }

    def publish(self) -> None:
        """Read the engine's state and pass it on."""
        state = self._state = self._read()
        for name, gauge in self._gauges.items():
            gauge.set(float(getattr(state, name)), self._label)
        self._per_step.set(self.load()["tokens_per_step"], self._label)
        tokens = self._tokens
        self._generated.inc(tokens - self._tokens_told, self._label)
        self._tokens_told = tokens
        totals = {"preemptions": self._preemptions, "prefix_queries": self._queries, "prefix_hits": self._hits}
        for name, counter in totals.items():
            counter.inc(max(getattr(state, name) - getattr(self._known, name), 0), self._label)
        self._known = state

    def _count_drafts(self, output: StepOutput) -> None:
        stats = output.stats
        if stats is None:
            return
        drafted, accepted = stats.drafted_per_position, stats.accepted_per_position
        self._drafts.inc(drafted[0], self._label)
        self._drafted.inc(sum(drafted), self._label)
        self._accepted.inc(sum(accepted), self._label)
        for position, count in enumerate(accepted, start=1):
            self._by_position.inc(count, {**self._label, "position": str(position)})
        for drafts, (steps, deeper) in enumerate(zip(drafted, [*drafted[1:], 0], strict=True), start=1):
            if steps > deeper:
                self._chosen.inc(steps - deeper, {**self._label, "drafts": str(drafts)})
        if stats.target_passes > drafted[0]:
            self._chosen.inc(stats.target_passes - drafted[0], {**self._label, "drafts": "0"})

    def _recent_steps(self) -> list[tuple[float, int, int]]:
        """Of the window; the others are forgotten. The engine's thread and Ray Serve's ask at the same time."""
        oldest = time.monotonic() - WINDOW_S
        with self._forgetting:
            while self._steps and self._steps[0][0] < oldest:
                self._steps.popleft()
            return list(self._steps)
