"""Which parameters decay: matrices do, norms and biases do not. Knows nothing of optimizers or sharding."""

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in two groups for a torch optimizer: decayed (2-D and more) and not (1-D).

    A shared parameter stands once. A group that would be empty is left out.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
