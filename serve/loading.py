"""From a model URI to a service that is ready: fetch, load, build the engine, warm up. Knows no HTTP and no ray."""

from pathlib import Path

import torch

from mtp.checkpoint import load_model
from mtp.config import ServeConfig
from mtp.decode import Engine, EngineOptions, Request, Sampling, default_speculation
from mtp.model import MTPModel
from mtp.registry import fetch_model
from mtp.tokenizer import Tokenizer
from serve.engine_loop import EngineLoop
from serve.metrics import Metrics
from serve.service import Service

WARM_UP_TOKENS = 8


def load_service(model_uri: str, model_name: str, config: ServeConfig, tracking_uri: str | None = None) -> Service:
    """Load `model_uri` and make it ready to answer.

    Raises:
        MTPError: the model cannot be fetched or is damaged, or the configuration does not fit it.
    """
    torch.set_num_threads(config.num_threads)
    folder = fetch_model(model_uri, tracking_uri)
    return service_of(folder, model_uri, model_name, config)


def service_of(folder: Path, model_uri: str, model_name: str, config: ServeConfig) -> Service:
    """The service of the model in `folder`."""
    device = "cuda" if config.num_gpus and torch.cuda.is_available() else "cpu"
    model = load_model(folder, device=device)
    tokenizer = Tokenizer.load(folder)
    engine = Engine(model, eos_ids=(tokenizer.eos_id,), options=_options(config))
    _warm_up(engine, model)
    if model.config.prediction.kind == "none" and config.decoder == "mtp":
        config = config.model_copy(update={"decoder": "standard", "num_draft_tokens": None})
    metrics = Metrics(engine, model_name)
    loop = EngineLoop(engine, metrics.step)
    return Service(model_name, model_uri, tokenizer, engine, loop, config, metrics)


def _options(config: ServeConfig) -> EngineOptions:
    return EngineOptions(
        max_batch_size=config.max_batch_size,
        max_model_len=config.max_model_len,
        max_batch_tokens=config.max_batch_tokens,
        cache_blocks=config.cache_blocks,
        prefix_caching=config.prefix_caching,
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
                raise RuntimeError(f"warm-up failed: {output.error}")
    engine.stats.reset()
