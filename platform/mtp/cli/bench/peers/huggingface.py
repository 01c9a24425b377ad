"""Hugging Face's generate as a contestant, in this process: transformers is what our own tests use.

Its MTP (`use_mtp=True`) drafts from the module in the exported folder, at batch 1 alone.
"""

from pathlib import Path

from mtp.errors import MTPError


class HuggingFace:
    """transformers with an exported model."""

    def __init__(self, folder: Path, *, modules: bool) -> None:
        """Raises MTPError where transformers is not installed."""
        try:
            import transformers
        except ImportError as error:
            raise MTPError("transformers is not installed") from error
        self.version = f"transformers {transformers.__version__}"
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._modules = modules
        self._model = transformers.DeepseekV3ForCausalLM.from_pretrained(folder, dtype="float32").eval()
        layer = self._model.config.num_hidden_layers
        self._model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{layer}\..*"]  # where it looks for modules

    def run(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuations of all prompts together."""
        import torch

        tokens = torch.tensor(prompts)
        found = self._model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, eos_token_id=None, pad_token_id=0,
            max_new_tokens=new_tokens, **({"use_mtp": True} if self._modules else {}),
        )  # fmt: skip
        outputs: list[list[int]] = [row[tokens.shape[1] :] for row in found.tolist()]
        return outputs
