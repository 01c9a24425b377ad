"""Small models with a tokenizer's vocabulary, and Hugging Face's view of their export."""

import torch
from torch import Tensor

from mtp.config import ModelConfig
from mtp.model import MTPModel
from tests.model.configurations import small

VOCABULARY = 300


def fresh(config: ModelConfig | None = None, seed: int = 0, **changes: object) -> MTPModel:
    """A model with random weights, the norms and the gates' biases included."""
    torch.manual_seed(seed)
    if config is None:
        config = small(**{"vocab_size": VOCABULARY, **changes})
    model = MTPModel(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name:
                tensor += 0.2 * torch.randn_like(tensor)
            elif "e_score_correction_bias" in name:
                tensor += 0.3 * torch.randn_like(tensor)
    return model


def hugging_face(folder) -> torch.nn.Module:
    """DeepseekV3ForCausalLM on an exported folder, told where its MTP layers are."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config.from_pretrained(folder)
    ignored = DeepseekV3ForCausalLM._keys_to_ignore_on_load_unexpected
    DeepseekV3ForCausalLM._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{config.num_hidden_layers}.*"]
    try:
        # Its grouped kernel takes no row that is off the 16-byte grid.
        model, info = DeepseekV3ForCausalLM.from_pretrained(
            folder, output_loading_info=True, experts_implementation="eager"
        )
        model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{config.num_hidden_layers}.*"]
    finally:
        DeepseekV3ForCausalLM._keys_to_ignore_on_load_unexpected = ignored
    assert not info["missing_keys"], info
    return model


@torch.no_grad()
def greedy(model: MTPModel, prompt: Tensor, count: int) -> list[int]:
    """The slow, obvious decoder: the whole row again for every token."""
    row = prompt
    for _ in range(count):
        row = torch.cat((row, model.logits(model(row)[0])[:, -1:].argmax(-1)), dim=1)
    return row[0, prompt.shape[1] :].tolist()
