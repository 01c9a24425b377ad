"""Layer 2: model folders and the public DeepSeek-V3 layout, as safetensors and JSON only."""

from mtp.checkpoint.export import export_hf
from mtp.checkpoint.folder import load_model, load_model_config, save_model, save_state
from mtp.checkpoint.import_ import import_hf

__all__ = ["export_hf", "import_hf", "load_model", "load_model_config", "save_model", "save_state"]
