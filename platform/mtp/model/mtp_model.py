"""The whole model: backbone, output head, prediction modules.

Plain PyTorch. It returns hidden states, one for each horizon, and the heads that turn them into logits; the objective
decides how (logits of every horizon at once would not fit in memory). It knows nothing of losses, sharding or devices.
"""

import torch
from torch import Tensor, nn

from mtp.config import ModelConfig
from mtp.errors import MTPError
from mtp.model.backbone import Backbone
from mtp.model.block import Block
from mtp.model.decoding import PassInput
from mtp.model.initialization import initialize
from mtp.model.masks import AttentionShape, attention_mask
from mtp.model.moe import MoE
from mtp.model.prediction import PREDICTION_MODULES, TrainingPass

MOE_LAYER_PATTERN = r"model\.layers\.\d+\.mlp|prediction\.[a-z_]+\.\d+(\.block)?\.mlp"
"""Full match of every MoE layer's module path; DeepSpeed AutoEP takes it as `moe_layer_pattern`."""


class MTPModel(nn.Module):
    """DeepSeek-V3 with prediction modules of any kind.

    State-dict names of the backbone are those that Hugging Face's DeepseekV3ForCausalLM has in memory; the modules'
    lie under `prediction.`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prediction = PREDICTION_MODULES[config.prediction.kind](config)
        initialize(self, config.initializer_range, config.embedding_initializer_range or config.initializer_range)
        self.share_weights()

    def share_weights(self) -> None:
        """(Re-)tie what is shared by reference: the embedding with the modules, and with the head when tied."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.prediction.share(self.model.embed_tokens)

    def forward(self, tokens: Tensor, document: Tensor | None = None, *, detach_backbone: bool = False) -> list[Tensor]:
        """Hidden states of every horizon: [h^0, h^1, ...], (B, T, d) each.

        Horizon k's logits are `hiddens[k - 1] @ heads()[k - 1].T`; position i of it predicts token i + k.

        Args:
            tokens: (B, T) int64 ids.
            document: (B, T) int document ordinals in the row, -1 for padding; attention stays inside a document.
                None: each row is one document.
            detach_backbone: train the modules alone; nothing before them gets a gradient.

        Raises:
            MTPError: T is 0, below n_future or beyond max_position_embeddings, or an id is not in the vocabulary.
        """
        self._check(tokens, document)
        mask = None if document is None else attention_mask(document, self._attention_shape(tokens))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_backbone):
            embedded = self.model.embed_tokens(tokens)
            rotation = self.model.rotary.prefix(tokens.shape[1], embedded)
            hidden = self.model(embedded, rotation, mask)
        return [hidden, *self.prediction(TrainingPass(hidden, embedded, rotation, mask))]

    def heads(self, *, detach_backbone: bool = False) -> list[Tensor]:
        """(V, d) weights, one a horizon: the same tensor where horizons share the output head.

        With `detach_backbone` the output head is cut off too; heads that belong to the modules keep their gradient.
        """
        output = self.lm_head.weight.detach() if detach_backbone else self.lm_head.weight
        return [output, *self.prediction.head_weights(output)]

    def logits(self, hidden: Tensor, horizon: int = 1) -> Tensor:
        """Logits (B, q, V) of horizon k from its hidden state (B, q, d)."""
        return nn.functional.linear(hidden, self.heads()[horizon - 1])

    def decode_backbone(self, tokens: Tensor, pass_input: PassInput) -> Tensor:
        """h^0 (B, q, d) of q new tokens (B, q) over the latent cache; MLA in its absorbed order."""
        return self.model.decode(tokens, pass_input)

    @property
    def cache_layers(self) -> int:
        """Layers of the latent cache that decoding with all modules needs."""
        return self.config.num_hidden_layers + self.prediction.cache_layers

    def expert_layers(self) -> list[MoE]:
        """The MoE layers, backbone first: counts of the forwards since their reset, and the bias update."""
        return [module for module in self.modules() if isinstance(module, MoE)]

    def record_balance(self, enabled: bool = True) -> None:
        """Let training forwards keep the sequence-wise balance loss of each MoE layer."""
        for layer in self.expert_layers():
            layer.record_balance = enabled
            layer.balance_loss = None

    def balance_loss(self) -> Tensor:
        """Sum over MoE layers of the last training forward's balance loss (without alpha); scalar, with gradient."""
        losses = [layer.balance_loss for layer in self.expert_layers() if layer.balance_loss is not None]
        return torch.stack(losses).sum() if losses else self.lm_head.weight.new_zeros(())

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Recompute each layer's activations in the backward instead of keeping them."""
        for module in self.modules():
            if isinstance(module, Block):
                module.checkpoint_activations = enabled

    def compile_layers(self) -> None:
        """Let torch.compile translate each layer at its first forward; call before anything wraps the model."""
        for module in self.modules():
            if isinstance(module, Block):
                module.compile_run()

    def _attention_shape(self, tokens: Tensor) -> AttentionShape:
        config, weight = self.config, self.model.embed_tokens.weight
        return AttentionShape(
            device=tokens.device,
            dtype=weight.dtype,
            heads=config.num_attention_heads,
            length=tokens.shape[1],
            key=config.qk_nope_head_dim + config.qk_rope_head_dim,
            value=config.v_head_dim,
        )

    def _check(self, tokens: Tensor, document: Tensor | None) -> None:
        if tokens.dim() != 2 or 0 in tokens.shape:
            raise MTPError(f"tokens have shape {tuple(tokens.shape)}; the model takes (B, T) with at least one token")
        if document is not None and document.shape != tokens.shape:
            raise MTPError(f"document has shape {tuple(document.shape)}, tokens {tuple(tokens.shape)}; they must agree")
        length, config = tokens.shape[1], self.config
        if length < config.n_future:
            raise MTPError(f"rows of {length} tokens are shorter than n_future ({config.n_future}); use longer rows")
        if length > config.max_position_embeddings:
            raise MTPError(
                f"rows of {length} tokens are longer than max_position_embeddings ({config.max_position_embeddings})"
            )
        # On an accelerator this would wait for the device; there the embedding kernel itself aborts.
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = torch.aminmax(tokens)
            if low < 0 or high >= config.vocab_size:
                bad = int(low) if low < 0 else int(high)
                raise MTPError(f"token id {bad} is outside the vocabulary of {config.vocab_size} entries")
