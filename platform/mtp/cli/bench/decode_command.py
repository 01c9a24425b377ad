"""`mtp bench decode`'s command line: which models, how long they train, which peers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mtp.cli.bench.harness import Measured
from mtp.cli.bench.report import Ratio
from mtp.cli.console import notes
from mtp.cli.session import ray_session
from mtp.errors import UsageError

PEERS = ("huggingface", "vllm", "llamacpp")
MINUTES = {"small": 6.0, "large": 15.0}
PROMPTS, PERPLEXITY_ROWS = 32, 8


def decode(
    models: Annotated[list[str] | None, typer.Option("--model", help="small, large, or both by default.")] = None,
    against: Annotated[list[str] | None, typer.Option(help=f"Peers: {', '.join(PEERS)}.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Of training, where the model is not kept yet.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes: does the benchmark run?")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = 5,
) -> None:
    """Decoders and engines on equal weights: tokens a second, and what they are of the machine's limits."""
    from mtp.cli.bench import machine
    from mtp.cli.bench.command import SMOKE_ROUNDS, finish, require_folder
    from mtp.cli.bench.decode import SMOKE, DecodeSize, bench_decode, missing
    from mtp.cli.bench.decode_limits import first_token, perplexities

    require_folder(json_file)
    peers = against or []
    _known("--against", peers, PEERS)
    names = ["small"] if smoke else models or list(MINUTES)
    _known("--model", names, tuple(MINUTES))
    rounds, size = (SMOKE_ROUNDS, SMOKE) if smoke else (rounds, DecodeSize())
    contestants: list[dict[str, Any] | Measured] = [missing(peer) for peer in peers if peer != "huggingface"]
    ratios: list[Ratio] = []
    with notes.status("Measuring the machine's limits") as spinner:
        limits = machine.limits()
        for name in names:
            spinner.update(f"Making the model {name}")
            model, texts = _tiny_model() if smoke else _model(name, minutes or MINUTES[name])
            prompts = [row[: size.prompt_tokens] for row in texts[:PROMPTS]]
            found, claims = bench_decode(
                name, model, prompts, size, rounds, limits, peers,
                lambda done, total, who: spinner.update(f"Round {done} of {total}: {who}"),
            )  # fmt: skip
            long_prompt = [token for row in texts for token in row][: size.long_prompt]
            contestants += [*found, *first_token(name, model, long_prompt)]
            contestants += perplexities(name, model, texts[:PERPLEXITY_ROWS])
            ratios += claims
    finish(contestants, ratios, limits, rounds, json_file)


def _known(option: str, names: list[str], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name!r} does not exist; there are: {', '.join(known)}")


def _model(name: str, minutes: float) -> tuple[Any, list[list[int]]]:
    """The model and held-out rows of tokens."""
    from mtp.checkpoint import load_model
    from mtp.cli.bench.decode_models import is_cached, trained
    from mtp.data import read_rows

    if is_cached(name, minutes):
        made = trained(name, minutes)
    else:
        with ray_session():
            made = trained(name, minutes)
    tokens, _ = read_rows(made.validation, limit=PROMPTS)
    return load_model(made.folder).eval(), tokens.tolist()


def _tiny_model() -> tuple[Any, list[list[int]]]:
    """Random weights and random text."""
    import torch

    from mtp.cli.bench.decode_models import TINY
    from mtp.config import ModelConfig
    from mtp.model import MTPModel

    torch.manual_seed(0)
    model = MTPModel(ModelConfig.model_validate(TINY)).eval()
    return model, torch.randint(model.config.vocab_size, (PROMPTS, 32)).tolist()
