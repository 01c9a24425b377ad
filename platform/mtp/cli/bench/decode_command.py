"""`mtp bench decode`'s command line: which models, how long they train, which peers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from mtp.cli.bench.harness import Measured, in_words
from mtp.cli.bench.memory_watch import watching_memory
from mtp.cli.bench.peers.contestants import NAMES, started
from mtp.cli.bench.report import Ratio
from mtp.cli.progress import telling
from mtp.cli.session import ray_session
from mtp.errors import UsageError

MINUTES = {"small": 6.0, "large": 15.0}
PERPLEXITY_ROWS = 8


def decode(
    models: Annotated[list[str] | None, typer.Option("--model", help="small, large, or both by default.")] = None,
    against: Annotated[list[str] | None, typer.Option(help=f"Peers: {', '.join(NAMES)}.")] = None,
    peer_python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER=PATH",
            envvar="MTP_BENCH_PEER_PYTHON",
            help="An interpreter that has the peer already; by default an environment is made and kept.",
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Of training, where the model is not kept yet.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes: does the benchmark run?")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = 5,
) -> None:
    """Decoders and engines on equal weights: tokens a second, and what they are of the machine's limits."""
    from mtp.cli.bench import machine
    from mtp.cli.bench.command import SMOKE_ROUNDS, finish, require_folder
    from mtp.cli.bench.decode import SIZES, SMOKE, bench_decode
    from mtp.cli.bench.decode_limits import first_token, perplexities
    from mtp.decode.probe import recorded_acceptance

    require_folder(json_file)
    peers = against or []
    _known("--against", peers, NAMES)
    named = _interpreters(peer_python or [])
    names = ["small"] if smoke else models or list(MINUTES)
    _known("--model", names, tuple(MINUTES))
    rounds = SMOKE_ROUNDS if smoke else rounds
    contestants: list[dict[str, Any] | Measured] = []
    ratios: list[Ratio] = []
    with watching_memory() as memory, telling("Measuring the machine's limits") as tell:
        limits = machine.limits()
        for name in names:
            tell(f"Making the model {name}")
            size = SMOKE if smoke else SIZES[name]
            trained = 0.0 if smoke else minutes or MINUTES[name]
            model, folder, texts = _tiny_model() if smoke else _model(name, trained)
            prompts = [row[: size.prompt_tokens] for row in texts]
            acceptance = recorded_acceptance(folder) if folder else ()
            job = peer_job(model, max(size.batches), size.prompt_tokens + size.new_tokens)
            with (
                exported(folder if peers else None) as export,
                started(name, export, peers, named, job, lambda who: tell(f"Starting {who}")) as others,
            ):
                found, claims = bench_decode(
                    name, trained, model, acceptance, prompts, size, rounds, limits, others.running, in_words(tell)
                )
            long_prompt = [token for row in texts for token in row][: size.long_prompt]
            contestants += [*found, *others.missing, *first_token(name, model, long_prompt)]
            contestants += perplexities(name, trained, model, texts[:PERPLEXITY_ROWS])
            ratios += claims
    finish([*contestants, *memory.entries()], ratios, limits, rounds, json_file)


def _known(option: str, names: list[str], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name!r} does not exist; there are: {', '.join(known)}")


def _interpreters(named: list[str]) -> dict[str, Path]:
    """`PEER=PATH` options by peer."""
    found = {}
    for option in named:
        peer, sign, path = option.partition("=")
        if not sign or peer not in NAMES or not Path(path).is_file():
            raise UsageError(
                f"--peer-python {option!r} is not PEER=PATH of an interpreter; peers are {', '.join(NAMES)}"
            )
        found[peer] = Path(path)
    return found


def peer_job(model: Any, batch: int, max_len: int) -> dict[str, Any]:
    """What a peer's process is told beside the folder."""
    import torch

    config = model.config
    latent = [config.kv_lora_rank, config.qk_rope_head_dim]
    return {"batch": batch, "max_len": max_len, "threads": torch.get_num_threads(), "latent": latent}


@contextmanager
def exported(folder: Path | None) -> Iterator[Path | None]:
    """The model in the public layout, as long as the block lasts."""
    from mtp.checkpoint import export_hf

    if folder is None:
        yield None
        return
    with TemporaryDirectory() as place:
        yield export_hf(folder, Path(place) / "export")


def _model(name: str, minutes: float) -> tuple[Any, Path | None, list[list[int]]]:
    """The model, its folder, and held-out rows of tokens."""
    from mtp.checkpoint import load_model
    from mtp.cli.bench.decode_models import PROMPTS, is_cached, trained
    from mtp.data import read_rows

    if is_cached(name, minutes):
        made = trained(name, minutes)
    else:
        with ray_session():
            made = trained(name, minutes)
    tokens, _ = read_rows(made.validation, limit=PROMPTS)
    return load_model(made.folder).eval(), made.folder, tokens.tolist()


def _tiny_model() -> tuple[Any, Path | None, list[list[int]]]:
    """Random weights and random text."""
    import torch

    from mtp.cli.bench.decode_models import PROMPTS, TINY
    from mtp.config import ModelConfig
    from mtp.model import MTPModel

    torch.manual_seed(0)
    model = MTPModel(ModelConfig.model_validate(TINY)).eval()
    return model, None, torch.randint(model.config.vocab_size, (PROMPTS, 32)).tolist()
