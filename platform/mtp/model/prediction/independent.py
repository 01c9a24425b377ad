"""Independent modules (Gloeckle et al. 2024): one transformer layer a horizon on the shared trunk, shared output head.

    h^{k-1} = Norm_k( Block_k(h^0) )       predicts t_{i+k}

Gloeckle et al. branch before the trunk's last layer and count that layer as horizon 1's; here the whole backbone is
the trunk, so that horizon 1 is the same with and without the modules.
"""

from torch import Tensor, nn

from mtp.config import ModelConfig
from mtp.model.block import Blocks
from mtp.model.decoding import PassInput
from mtp.model.norm import RMSNorm
from mtp.model.prediction.base import PredictionModules, TrainingPass


class IndependentModules(PredictionModules):
    """n_future - 1 layers side by side."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.cache_layers = self.horizons
        self.layers = Blocks(config, self.first_layer, self.horizons)
        self.norms = nn.ModuleList(RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(self.horizons))

    def forward(self, training_pass: TrainingPass) -> list[Tensor]:
        """States of horizons 2..n, (B, T, d) each."""
        hidden, rotation, mask = training_pass.hidden, training_pass.rotation, training_pass.mask
        return [norm(block(hidden, rotation, mask)) for block, norm in zip(self.layers, self.norms, strict=True)]

    def draft_hiddens(self, hidden: Tensor, pass_input: PassInput) -> list[Tensor]:
        """See the base class; horizon k uses cache layer N + k - 2."""
        rotation = self.rotary.at(pass_input.positions, hidden)
        return [
            norm(block.decode(hidden, rotation, pass_input, self.first_layer + index))
            for index, (block, norm) in enumerate(zip(self.layers, self.norms, strict=True))
        ]
