"""What every kind of prediction modules offers to the model and to the decoders.

A kind lives in its own file and is named in PREDICTION_MODULES. It sees the backbone only through h^0 and the token
embedding, so that modules can be added to, trained on and dropped from an existing backbone.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from mtp.config import ModelConfig
from mtp.model.decoding import PassInput
from mtp.model.masks import AttentionMask
from mtp.model.rotary import RotaryEmbedding, Rotation


@dataclass(frozen=True)
class TrainingPass:
    """What the backbone's forward has already computed for a batch of rows."""

    hidden: Tensor
    """(B, T, d): h^0, the backbone's output after its final norm."""
    embedded: Tensor
    """(B, T, d): embeddings of the tokens."""
    rotation: Rotation
    mask: AttentionMask | None
    """Of `attention_mask`, or None for causal."""


class PredictionModules(nn.Module):
    """Produces hidden states for horizons 2..n_future."""

    cache_layers = 0
    """Layers of the latent cache that decoding needs beside the backbone's N (numbered from N)."""
    runs = 1
    """How often a training forward runs each of the modules' own weights."""
    chained = False
    """Whether horizon k's state needs horizon k-1's drafted token (`decode`), or not (`draft_hiddens`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.horizons = config.n_future - 1
        self.first_layer = config.num_hidden_layers
        self.rotary = RotaryEmbedding(config)
        self._shared: dict[str, nn.Embedding] = {}

    def share(self, embed_tokens: nn.Embedding) -> None:
        """Use the backbone's embedding; held aside, so that it is not a second entry in the state dict."""
        self._shared["embed_tokens"] = embed_tokens

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (B, q) -> (B, q, d), by the backbone's embedding."""
        return self._shared["embed_tokens"](tokens)

    def forward(self, training_pass: TrainingPass) -> list[Tensor]:
        """Hidden states (B, T, d) of horizons 2..n_future."""
        raise NotImplementedError

    def head_weights(self, output_head: Tensor) -> list[Tensor]:
        """(V, d) weights that turn the states of horizons 2..n_future into logits; by default the shared head."""
        return [output_head] * self.horizons

    def decode(self, k: int, hidden: Tensor, next_tokens: Tensor, pass_input: PassInput) -> Tensor:
        """Chained kinds: state k from state k-1 and the tokens it has already drafted.

        Args:
            k: 1..n_future-1; state k predicts horizon k+1.
            hidden: (B, q, d): h^{k-1} at slots i.
            next_tokens: (B, q) int64: t_{i+k}.
            pass_input: positions are those of the slots i.

        Returns:
            h^k (B, q, d).
        """
        raise NotImplementedError(f"{type(self).__name__} does not draft from its own tokens; call draft_hiddens")

    def draft_hiddens(self, hidden: Tensor, pass_input: PassInput) -> list[Tensor]:
        """Other kinds: states (B, q, d) of all horizons 2..n_future at once, from h^0 (B, q, d) at slots i.

        Call it for every slot in order (not only the last one), since modules with attention fill their cache layers.
        """
        raise NotImplementedError(f"{type(self).__name__} drafts token by token; call decode")
