"""Counts of one replica's engine, published through ray.util.metrics and summed up for the autoscaler.

The names are vLLM's with `mtp_` for `vllm:`. The engine's thread calls `step` after every step; nothing here blocks.
"""

import time
from collections import deque

from ray.util.metrics import Counter, Gauge

from mtp.decode import Engine, StepOutput

WINDOW_S = 10.0
"""Rates are of the last so many seconds."""
LABELS = ("model_name", "model_uri")


class EngineMetrics:
    """Of one engine."""

    def __init__(self, engine: Engine, model_name: str, model_uri: str) -> None:
        self._engine = engine
        self._label = {"model_name": model_name, "model_uri": model_uri}
        self._steps: deque[tuple[float, int, int]] = deque()
        """(when, tokens, passes) of steps in the window."""
        self._drafts = Counter("mtp_spec_decode_num_drafts", "Steps of requests that verified drafts.", LABELS)
        self._drafted = Counter("mtp_spec_decode_num_draft_tokens", "Tokens drafted.", LABELS)
        self._accepted = Counter("mtp_spec_decode_num_accepted_tokens", "Drafts accepted.", LABELS)
        self._by_position = Counter(
            "mtp_spec_decode_num_accepted_tokens_per_pos", "Drafts accepted, by position.", (*LABELS, "position")
        )
        self._chosen = Counter("mtp_spec_decode_steps", "Steps of requests by drafts made.", (*LABELS, "drafts"))
        self._generated = Counter("mtp_generation_tokens", "Tokens generated.", LABELS)
        self._preemptions = Counter("mtp_num_preemptions", "Requests preempted for want of cache.", LABELS)
        self._queries = Counter("mtp_prefix_cache_queries", "Cache blocks looked up at admission.", LABELS)
        self._hits = Counter("mtp_prefix_cache_hits", "Cache blocks found at admission.", LABELS)
        self._gauges = {
            "running": Gauge("mtp_num_requests_running", "Requests in the batch.", LABELS),
            "waiting": Gauge("mtp_num_requests_waiting", "Requests in the engine's queue.", LABELS),
            "cache_use": Gauge("mtp_kv_cache_usage_perc", "Share of the cache in use, 0 to 1.", LABELS),
        }
        self._per_step = Gauge("mtp_tokens_per_step", "Tokens emitted a target pass, of the last steps.", LABELS)
        self._known = {"preemptions": 0, "queries": 0, "hits": 0}
        self._published = 0.0
        self._in_flight = 0

    def step(self, outputs: list[StepOutput]) -> None:
        """Count what an engine's step brought."""
        now = time.monotonic()
        tokens = sum(len(output.tokens) for output in outputs)
        if outputs:
            self._steps.append((now, tokens, len(outputs)))
        if tokens:
            self._generated.inc(tokens, self._label)
        for output in outputs:
            if output.stats is not None and output.stats.drafted_per_position:
                self._count_drafts(output)
        idle = not self._engine.has_work
        if idle or now - self._published > 1.0:
            self._published = now
            self._publish()

    def load(self) -> dict[str, float]:
        """Requests and the tokens they still want, requests' passes a second, and how many tokens come a pass."""
        self._forget_old()
        steps = list(self._steps)
        tokens, passes = sum(step[1] for step in steps), sum(step[2] for step in steps)
        span = max(time.monotonic() - steps[0][0], 0.1) if steps else WINDOW_S
        return {
            "requests": float(self._engine.running + self._engine.waiting),
            "waiting": float(self._engine.waiting),
            "tokens_in_flight": float(self._in_flight),
            "passes_per_s": passes / span,
            "tokens_per_step": tokens / passes if passes else 1.0,
        }

    def _count_drafts(self, output: StepOutput) -> None:
        stats = output.stats
        if stats is None:
            return
        drafted, accepted = stats.drafted_per_position, stats.accepted_per_position
        self._drafts.inc(drafted[0], self._label)
        self._drafted.inc(sum(drafted), self._label)
        if any(accepted):
            self._accepted.inc(sum(accepted), self._label)
        for position, count in enumerate(accepted, start=1):
            if count:
                self._by_position.inc(count, {**self._label, "position": str(position)})
        for drafts, (steps, deeper) in enumerate(zip(drafted, [*drafted[1:], 0], strict=True), start=1):
            if steps > deeper:
                self._chosen.inc(steps - deeper, {**self._label, "drafts": str(drafts)})
        if stats.target_passes > drafted[0]:
            self._chosen.inc(stats.target_passes - drafted[0], {**self._label, "drafts": "0"})

    def _publish(self) -> None:
        engine, scheduler = self._engine, self._engine.scheduler
        live = [*scheduler.running, *scheduler.waiting]
        self._in_flight = sum(sequence.remaining + sequence.uncomputed for sequence in live)
        for name, gauge in self._gauges.items():
            gauge.set(float(getattr(engine, name)), self._label)
        self._per_step.set(self.load()["tokens_per_step"], self._label)
        totals = {
            "preemptions": (self._preemptions, scheduler.preemptions),
            "queries": (self._queries, scheduler.prefix_queries),
            "hits": (self._hits, scheduler.prefix_hits),
        }
        for name, (counter, total) in totals.items():
            if total > self._known[name]:
                counter.inc(total - self._known[name], self._label)
                self._known[name] = total

    def _forget_old(self) -> None:
        oldest = time.monotonic() - WINDOW_S
        while self._steps and self._steps[0][0] < oldest:
            self._steps.popleft()
