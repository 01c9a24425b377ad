"""Fresh weights: normal(0, initializer_range) for every matrix, 1 for norms, 0 for the gate's bias."""

from torch import nn

from mtp.model.experts import Experts
from mtp.model.gate import Gate


def initialize(model: nn.Module, std: float) -> None:
    """Fill the matrices of `model` in place; norms and biases are already what they should be. No-op on meta."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding | Gate):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, Experts):
            nn.init.normal_(module.gate_up_proj, std=std)
            nn.init.normal_(module.down_proj, std=std)
