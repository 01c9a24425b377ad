"""The learning rate as a pure function of the step. Knows nothing of optimizers."""

import math

from mtp.config.train import LRScheduleConfig


def lr_at(config: LRScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of step `step` (from 0) of `total_steps`.

    Linear from peak/warm-up steps to `peak`, then along cosine or line to `config.final * peak` at the last step.
    """
    warmup = round(config.warmup * total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.decay == "none":
        return peak
    progress = min((step - warmup + 1) / max(total_steps - warmup, 1), 1.0)
    left = (1 + math.cos(math.pi * progress)) / 2 if config.decay == "cosine" else 1 - progress
    return peak * (config.final + (1 - config.final) * left)
