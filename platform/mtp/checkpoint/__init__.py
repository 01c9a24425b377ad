"""Layer 2: model folders and the public DeepSeek-V3 layout, as safetensors and JSON only."""

from mtp.checkpoint.folder import load_model, load_model_config, save_model, save_state

__all__ = ["load_model", "load_model_config", "save_model", "save_state"]
