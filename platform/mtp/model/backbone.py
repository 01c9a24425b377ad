"""The trunk: token embedding, the layers, the final norm. Its output h^0 predicts horizon 1 and feeds the modules."""

from torch import Tensor, nn

from mtp.config import ModelConfig
from mtp.model.block import Blocks
from mtp.model.decoding import PassInput
from mtp.model.masks import AttentionMask
from mtp.model.norm import RMSNorm
from mtp.model.rotary import RotaryEmbedding, Rotation


class Backbone(nn.Module):
    """DeepSeek-V3 without its head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = Blocks(config, 0, config.num_hidden_layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryEmbedding(config)

    def forward(self, embedded: Tensor, rotation: Rotation, mask: AttentionMask | None) -> Tensor:
        """Token embeddings (B, T, d) -> h^0 (B, T, d), after the final norm."""
        x = embedded
        for block in self.layers:
            x = block(x, rotation, mask)
        return self.norm(x)

    def decode(self, tokens: Tensor, pass_input: PassInput) -> Tensor:
        """tokens (B, q) int64 -> h^0 (B, q, d), through cache layers 0..N-1."""
        x = self.embed_tokens(tokens)
        rotation = self.rotary.at(pass_input.positions, x)
        for layer, block in enumerate(self.layers):
            x = block.decode(x, rotation, pass_input, layer)
        return self.norm(x)
