"""From a model URI to an engine that is ready: fetch, load, build, warm up. Knows no HTTP and no ray."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtp.checkpoint import load_model
from mtp.config import ServeConfig
from mtp.decode import Engine, EngineOptions, Request, Sampling, default_speculation
from mtp.decode.grammar import GrammarCompiler
from mtp.decode.probe import check_probe
from mtp.errors import MTPError
from mtp.model import MTPModel
from mtp.registry import fetch_model
from mtp.tokenizer import Tokenizer
from serve.engine_loop import EngineLoop
from serve.engine_metrics import EngineMetrics

WARM_UP_TOKENS = 8


@dataclass
class Loaded:
    """One model and its engine, at work."""

    model_uri: str
    tokenizer: Tokenizer
    engine: Engine
    loop: EngineLoop
    metrics: EngineMetrics
    n_future: int
    decoder: str
    chat_template: str | None
    special_tokens: dict[str, str]
    started: float = field(default_factory=time.time)

    def load_now(self) -> dict[str, float]:
        """Work that waits here, and how fast it goes (autoscaling.py)."""
        return self.metrics.load()


def load(model_uri: str, model_name: str, config: ServeConfig, tracking_uri: str | None = None) -> Loaded:
    """Load `model_uri` and make it ready to answer.

    Raises:
        MTPError: the model cannot be fetched, is damaged or fails its probe, or the configuration does not fit it.
    """
    torch.set_num_threads(config.num_threads)
    folder = fetch_model(model_uri, tracking_uri)
    device = "cuda" if config.num_gpus and torch.cuda.is_available() else "cpu"
    model = load_model(folder, device=device)
    check_probe(folder, model)
    tokenizer = Tokenizer.load(folder)
    grammars = GrammarCompiler(tokenizer, model.config.vocab_size)
    engine = Engine(model, eos_ids=(tokenizer.eos_id,), options=_options(config), grammars=grammars)
    _warm_up(engine, model)
    metrics = EngineMetrics(engine, model_name, model_uri)
    return Loaded(
        model_uri=model_uri,
        tokenizer=tokenizer,
        engine=engine,
        loop=EngineLoop(engine, metrics.step),
        metrics=metrics,
        n_future=model.config.prediction.n_future,
        decoder="standard" if model.config.prediction.kind == "none" else config.decoder,
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


def _options(config: ServeConfig) -> EngineOptions:
    return EngineOptions(
        max_batch_size=config.max_batch_size,
        max_model_len=config.max_model_len,
        max_batch_tokens=config.max_batch_tokens,
        cache_blocks=config.cache_blocks,
        prefix_caching=config.prefix_caching,
        adaptive_drafts=config.adaptive_drafts,
        draft_vocab_size=config.draft_vocab_size,
        compiled_step=config.compiled_step,
        quantization=config.quantization,
    )


def _warm_up(engine: Engine, model: MTPModel) -> None:
    """A full batch through every kind of pass, so that no user's request pays for first times."""
    room = engine.max_model_len - 1
    tokens = min(WARM_UP_TOKENS, room)
    prompt = [1] * min(4, engine.max_model_len - tokens)
    for _ in range(engine.options.max_batch_size):
        sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        engine.add(Request(prompt=prompt, sampling=sampling, speculation=default_speculation(model)))
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise MTPError(f"the model does not decode: {output.error}")
    engine.stats.reset()
