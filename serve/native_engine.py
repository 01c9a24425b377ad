"""This platform's own engine (mtp.decode) as a replica runs it: loaded, probed, warm, in a thread of its own."""

import sys
from pathlib import Path

import torch

from mtp.checkpoint import load_model
from mtp.config import ServeConfig
from mtp.decode import Engine, EngineOptions, Request, Sampling, default_speculation
from mtp.decode.grammar import GrammarCompiler
from mtp.decode.probe import check_probe, recorded_acceptance
from mtp.errors import MTPError
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer
from serve.engine_loop import EngineLoop
from serve.engine_metrics import EngineState
from serve.serving_engine import MakeMetrics, Running

WARM_UP_TOKENS = 8
SWITCH_INTERVAL_S = 1e-4
"""A step lets go of the interpreter for each of its passes, and then waits until the thread that answers requests lets
go of it: five milliseconds, as Python has it, are several steps of a small model."""


def start_native(folder: Path, config: ServeConfig, make_metrics: MakeMetrics) -> Running:
    """The model of `folder`, decoding; `config.draft_model` is a folder here.

    Raises:
        MTPError: it is damaged or fails its probe, or the configuration does not fit it.
    """
    torch.set_num_threads(config.num_threads)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    device = "cuda" if config.num_gpus and torch.cuda.is_available() else "cpu"
    model = load_model(folder, device=device)
    check_probe(folder, model)
    tokenizer = Tokenizer.load(folder)
    grammars = GrammarCompiler(tokenizer, model.config.vocab_size)
    drafter = load_model(config.draft_model, device=device) if config.draft_model else None
    options = engine_options(config, folder)
    engine = Engine(model, eos_ids=(tokenizer.eos_id,), options=options, grammars=grammars, draft_model=drafter)
    _warm_up(engine, model)
    metrics = make_metrics(lambda: _state(engine))
    loop = EngineLoop(engine, lambda outputs: metrics.step(outputs, idle=not engine.has_work))
    return Running(loop, metrics)


def _state(engine: Engine) -> EngineState:
    """Read on the engine's own thread, between steps."""
    scheduler = engine.scheduler
    live = [*scheduler.running, *scheduler.waiting]
    return EngineState(
        running=engine.running,
        waiting=engine.waiting,
        cache_use=engine.cache_use,
        tokens_in_flight=sum(sequence.remaining + sequence.uncomputed for sequence in live),
        preemptions=scheduler.preemptions,
        prefix_queries=scheduler.prefix_queries,
        prefix_hits=scheduler.prefix_hits,
    )


def engine_options(config: ServeConfig, folder: Path) -> EngineOptions:
    """What the configuration says of the engine, and the model's folder of its drafts."""
    return EngineOptions(
        max_batch_size=config.max_batch_size,
        max_model_len=config.max_model_len,
        max_batch_tokens=config.max_batch_tokens,
        cache_blocks=config.cache_blocks,
        prefix_caching=config.prefix_caching,
        adaptive_drafts=config.adaptive_drafts,
        expected_acceptance=recorded_acceptance(folder),
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
