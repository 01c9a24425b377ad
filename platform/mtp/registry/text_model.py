"""A registered model as MLflow's pyfunc sees it: prompts in, completions out.

For people with MLflow and no cluster; serving uses the engine directly. Loaded by the code that mlmodel.py writes.
"""

from pathlib import Path
from typing import Any

import mlflow
import torch

from mtp.checkpoint import load_model
from mtp.decode import Sampling, generate
from mtp.registry.mlmodel import PARAMS
from mtp.tokenizer import Tokenizer


class TextModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, unused-ignore]
    """Reads the model in `folder` when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model: Any = None

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        """The completion of each prompt, decoded with the model's own drafts.

        Args:
            context: MLflow's; not used.
            model_input: prompts.
            params: `max_tokens` and `temperature` (0 = greedy).
        """
        if self._model is None:
            dtype = None if torch.cuda.is_available() else torch.float32
            self._model = load_model(self._folder, "cuda" if torch.cuda.is_available() else "cpu", dtype)
        tokenizer = Tokenizer.load(self._folder)
        chosen = {**PARAMS, **(params or {})}
        sampling = Sampling(max_tokens=int(chosen["max_tokens"]), temperature=float(chosen["temperature"]))
        prompts = [tokenizer.encode(prompt) or [tokenizer.eos_id] for prompt in model_input]
        outputs = generate(self._model, prompts, sampling, eos_ids=(tokenizer.eos_id,))
        return [tokenizer.decode([token for token in output.tokens if token != tokenizer.eos_id]) for output in outputs]


def publish(folder: Path) -> None:
    """Hand the model in `folder` to MLflow, which is running the code of a stored model."""
    mlflow.models.set_model(TextModel(folder))
