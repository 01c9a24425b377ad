"""Fresh weights: normal(0, initializer_range) for every matrix, 1 for norms, 0 for the gate's bias.

The embedding may have a standard deviation of its own (Takase et al. 2023, "Spike No More": the stream that the layers
add to should not be small beside what they add).
"""

from torch import nn

from mtp.model.experts import Experts
from mtp.model.gate import Gate


def initialize(model: nn.Module, std: float, embedding_std: float) -> None:
    """Fill the matrices of `model` in place; norms and biases are already what they should be. No-op on meta."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding | Gate):
            nn.init.normal_(module.weight, std=embedding_std if isinstance(module, nn.Embedding) else std)
        elif isinstance(module, Experts):
            nn.init.normal_(module.gate_up_proj, std=std)
            nn.init.normal_(module.down_proj, std=std)
