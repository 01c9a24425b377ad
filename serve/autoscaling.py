"""How many replicas the tokens in flight need: a policy for Ray Serve's autoscaler.

A request counts by the tokens that it still wants, not as one: ten long answers are more work than ten short ones. A
replica's speed is passes a second (what the machine does) times tokens a step (what speculation makes of a pass with
the text at hand), so the same queue needs fewer replicas when more drafts are accepted. Knows numbers only.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from mtp.config.serve import AutoscalingConfig as OurConfig
from mtp.config.serve import ServeConfig

_MEMORY = 0.98
"""The fastest that a replica was seen counts a little less at every look (one a second or so)."""
DEFAULT_TOKENS = 64.0
"""Of a request about which nothing is known yet."""


class TokensPolicy:
    """Enough replicas that the tokens in flight are gone within `target_wait_s`."""

    def __init__(self, target_wait_s: float) -> None:
        self._target_wait_s = target_wait_s

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas that is wanted, and what to remember."""
        metrics = {name: list(values.values()) for name, values in (ctx.aggregated_metrics or {}).items()}
        passes = max([ctx.policy_state.get("passes_per_s", 0.0) * _MEMORY, *metrics.get("passes_per_s", [])])
        state = {"passes_per_s": passes}
        queued = float(ctx.total_queued_requests or 0)
        tokens = tokens_in_flight(metrics, queued)
        if not passes:
            return max(ctx.target_num_replicas, 1 if tokens else 0), state
        per_step = mean(metrics.get("tokens_per_step", [])) or 1.0
        return wanted_replicas(tokens, passes * per_step, self._target_wait_s), state


def wanted_replicas(tokens: float, tokens_per_s: float, target_wait_s: float) -> int:
    """Replicas of `tokens_per_s` each that work off `tokens` in time.

    400 tokens at 100 tokens/s, to be gone in 2 s, need 2; with 2 tokens a step instead of 1, 1 will do.
    """
    return math.ceil(tokens / (tokens_per_s * target_wait_s))


def tokens_in_flight(metrics: dict[str, list[float]], queued: float) -> float:
    """Tokens that requests on replicas want, and those at the gateways, which are taken to be like them."""
    held, requests = sum(metrics.get("tokens_in_flight", [])), sum(metrics.get("requests", []))
    each = held / requests if requests else DEFAULT_TOKENS
    return held + queued * each


def mean(values: list[float]) -> float:
    """0 of none."""
    return sum(values) / len(values) if values else 0.0


def autoscaling_config(config: ServeConfig) -> AutoscalingConfig | None:
    """Ray Serve's configuration for ours; None when the number of replicas is fixed."""
    ours: OurConfig = config.autoscaling
    if ours.policy == "none":
        return None
    policy = {}
    if ours.policy == "tokens":
        function = "serve.autoscaling:TokensPolicy"
        kwargs = {"target_wait_s": ours.target_wait_s}
        policy = {"policy": AutoscalingPolicy(policy_function=function, policy_kwargs=kwargs)}
    return AutoscalingConfig(
        min_replicas=ours.min_replicas,
        max_replicas=ours.max_replicas,
        initial_replicas=max(ours.min_replicas, 1),
        target_ongoing_requests=ours.target_requests,
        upscale_delay_s=ours.upscale_delay_s,
        downscale_delay_s=ours.downscale_delay_s,
        metrics_interval_s=1.0,
        look_back_period_s=3.0,
        **policy,
    )
