"""DeepSeek-V3's sequential modules (report, section 2.2): each adds one token to a causal chain.

    x   = eh_proj [ RMSNorm_e(Emb(t_{i+k})) ; RMSNorm_h(h^{k-1}_i) ]
    h^k = Norm_k( Block_k(x) )          predicts t_{i+k+1} through the shared output head

Embedding half first, as the public loaders read it; the normed h^k goes on to depth k+1.
"""

import torch
from torch import Tensor, nn

from mtp.config import ModelConfig
from mtp.model.block import Block
from mtp.model.decoding import PassInput
from mtp.model.norm import RMSNorm
from mtp.model.prediction.base import PredictionModules, TrainingPass


class SequentialModule(nn.Module):
    """One depth of the chain."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = RMSNorm(d, eps)
        self.hnorm = RMSNorm(d, eps)
        self.eh_proj = nn.Linear(2 * d, d, bias=False)
        self.block = Block(config, layer)
        self.norm = RMSNorm(d, eps)

    def join(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Emb(t_{i+k}) and h^{k-1}_i, (B, T, d) each -> the block's input (B, T, d)."""
        return self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden)), dim=-1))


class SequentialModules(PredictionModules):
    """n_future - 1 modules, or one recursed that many times (`share_modules`)."""

    chained = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.cache_layers = self.horizons
        self.runs = self.horizons if config.prediction.share_modules else 1
        own = self.horizons // self.runs
        self.modules_by_depth = nn.ModuleList(
            SequentialModule(config, self.first_layer + depth) for depth in range(own)
        )

    def at_depth(self, k: int) -> SequentialModule:
        """The module that makes h^k, k = 1..n_future-1."""
        return self.modules_by_depth[min(k, len(self.modules_by_depth)) - 1]  # type: ignore[return-value]

    def forward(self, training_pass: TrainingPass) -> list[Tensor]:
        """States h^1..h^{n-1}, (B, T, d) each.

        The last k slots of a row have no t_{i+k}: they see the row's first tokens instead. Nothing valid depends on
        them, since horizon k+1 has no target there and attention looks back only.
        """
        hidden, states = training_pass.hidden, []
        for k in range(1, self.horizons + 1):
            module = self.at_depth(k)
            x = module.join(training_pass.embedded.roll(-k, dims=1), hidden)
            hidden = module.norm(module.block(x, training_pass.rotation, training_pass.mask))
            states.append(hidden)
        return states

    def decode(self, k: int, hidden: Tensor, next_tokens: Tensor, pass_input: PassInput) -> Tensor:
        """See the base class; uses cache layer N + k - 1, its own at every depth even when weights are shared."""
        module = self.at_depth(k)
        x = module.join(self.embed(next_tokens), hidden)
        rotation = self.rotary.at(pass_input.positions, x)
        return module.norm(module.block.decode(x, rotation, pass_input, self.first_layer + k - 1))
