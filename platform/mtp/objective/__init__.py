"""Layer 1: the multi-token-prediction loss and its parts, in plain PyTorch."""

from mtp.objective.chunked_cross_entropy import LinearCrossEntropy, linear_cross_entropy
from mtp.objective.importance import token_importance
from mtp.objective.metrics import SUMS, expected_tokens_per_step, horizon_metrics
from mtp.objective.objective import MTPObjective, ObjectiveOutput
from mtp.objective.schedules import lambdas_at
from mtp.objective.targets import Targets, build_targets

__all__ = [
    "SUMS",
    "LinearCrossEntropy",
    "MTPObjective",
    "ObjectiveOutput",
    "Targets",
    "build_targets",
    "expected_tokens_per_step",
    "horizon_metrics",
    "lambdas_at",
    "linear_cross_entropy",
    "token_importance",
]
