"""Parallel heads: one shared MTP transformer of `depth` layers over h^0, then one linear head a horizon.

    z = Norm( Block_depth( ... Block_1(h^0) ) )       (depth 0: z = h^0, as in Medusa's simplest heads)
    logits_k = W_k z                                  own head (V, d) for each horizon
    logits_k = W_out P_k z                            `tie_heads`: the output head, after a (d, d) map per horizon

Without P_k tied heads would predict the same token at every horizon.
"""

from torch import Tensor, nn

from mtp.config import ModelConfig
from mtp.model.block import Blocks
from mtp.model.decoding import PassInput
from mtp.model.norm import RMSNorm
from mtp.model.prediction.base import PredictionModules, TrainingPass


class ParallelModules(PredictionModules):
    """All horizons from the same state, none seeing another's token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        d, depth = config.hidden_size, config.prediction.depth
        self.cache_layers = depth
        self.layers = Blocks(config, self.first_layer, depth)
        self.norm = RMSNorm(d, config.rms_norm_eps) if depth else nn.Identity()
        self.tied = config.prediction.tie_heads
        width = d if self.tied else config.vocab_size
        self.heads = nn.ModuleList(nn.Linear(d, width, bias=False) for _ in range(self.horizons))

    def forward(self, training_pass: TrainingPass) -> list[Tensor]:
        """The state of every horizon 2..n, (B, T, d) each (one tensor n-1 times when heads are not tied)."""
        z = training_pass.hidden
        for block in self.layers:
            z = block(z, training_pass.rotation, training_pass.mask)
        return self._states(self.norm(z))

    def head_weights(self, output_head: Tensor) -> list[Tensor]:
        """The output head for each horizon when tied, else each horizon's own (V, d)."""
        if self.tied:
            return super().head_weights(output_head)
        return list(self.heads.parameters())

    def draft_hiddens(self, hidden: Tensor, pass_input: PassInput) -> list[Tensor]:
        """See the base class; uses cache layers N..N+depth-1."""
        rotation = self.rotary.at(pass_input.positions, hidden)
        for layer, block in enumerate(self.layers):
            hidden = block.decode(hidden, rotation, pass_input, self.first_layer + layer)
        return self._states(self.norm(hidden))

    def _states(self, z: Tensor) -> list[Tensor]:
        return [head(z) for head in self.heads] if self.tied else [z] * self.horizons
