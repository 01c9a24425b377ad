"""Layer 1: the DeepSeek-V3 architecture with multi-token prediction, in plain PyTorch."""

from mtp.model.accounting import ParameterCounts, flops_per_token, model_on_meta, parameter_counts
from mtp.model.decoding import LatentCache, PassInput
from mtp.model.gate import load_violation, updated_bias
from mtp.model.mtp_model import MOE_LAYER_PATTERN, MTPModel
from mtp.model.prediction import PREDICTION_MODULES

__all__ = [
    "MOE_LAYER_PATTERN",
    "PREDICTION_MODULES",
    "LatentCache",
    "MTPModel",
    "ParameterCounts",
    "PassInput",
    "flops_per_token",
    "load_violation",
    "model_on_meta",
    "parameter_counts",
    "updated_bias",
]
