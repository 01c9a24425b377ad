"""From a model URI to an engine that is ready: fetch, start, and what comes with a model. Knows no HTTP and no ray."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtp.checkpoint import load_model_config
from mtp.config import ServeConfig
from mtp.errors import MTPError
from mtp.registry import fetch_model
from mtp.tokenizer import Tokenizer
from serve.engine_metrics import EngineMetrics
from serve.native_engine import start_native
from serve.serving_engine import ServingEngine, StartEngine
from serve.vllm_start import start_vllm

ENGINES: dict[str, StartEngine] = {"native": start_native, "vllm": start_vllm}
"""By `serve.engine`."""


@dataclass
class Loaded:
    """One model and its engine, at work."""

    model_uri: str
    tokenizer: Tokenizer
    engine_name: str
    engine: ServingEngine
    metrics: EngineMetrics
    n_future: int
    decoder: str
    chat_template: str | None
    special_tokens: dict[str, str]


def load(model_uri: str, model_name: str, config: ServeConfig, tracking_uri: str | None = None) -> Loaded:
    """Load `model_uri` and make it ready to answer.

    Raises:
        MTPError: the model cannot be fetched, is damaged or fails its probe, or the configuration does not fit it.
    """
    folder = fetch_model(model_uri, tracking_uri)
    prediction = load_model_config(folder).prediction
    if config.draft_model is not None:
        config = config.model_copy(update={"draft_model": str(fetch_model(config.draft_model, tracking_uri))})
    start = ENGINES[config.engine]
    engine, metrics = start(folder, config, lambda read: EngineMetrics(read, model_name, model_uri))
    return Loaded(
        model_uri=model_uri,
        tokenizer=Tokenizer.load(folder),
        engine_name=config.engine,
        engine=engine,
        metrics=metrics,
        n_future=prediction.n_future,
        decoder="standard" if prediction.kind == "none" and config.decoder == "mtp" else config.decoder,
        chat_template=chat_template(folder),
        special_tokens=special_tokens(folder),
    )


def chat_template(folder: Path) -> str | None:
    """The template that comes with a model: chat_template.jinja, else the entry of tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _tokenizer_config(folder).get("chat_template")
    return template if isinstance(template, str) else None


def special_tokens(folder: Path) -> dict[str, str]:
    """The tokens that templates name: bos_token, eos_token and their like."""
    found = {}
    for name, value in _tokenizer_config(folder).items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MTPError(f"{file} is not valid JSON ({error}); mend it or leave it out") from None
    return found if isinstance(found, dict) else {}
