"""The commands of `mtp bench`: chooses sizes, runs the benchmark, shows and writes the report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mtp.cli.bench.decode_command import decode
from mtp.cli.bench.harness import Measured, in_words
from mtp.cli.bench.memory_watch import watching_memory
from mtp.cli.bench.report import BenchReport, Ratio, contestant_entry
from mtp.cli.progress import telling
from mtp.cli.session import ray_session
from mtp.errors import UsageError

ROUNDS, SMOKE_ROUNDS = 5, 2
PLATFORM_ROUNDS = 3
"""Every run of the platform starts workers anew."""
GROWTH_ROUNDS = 3
PLATFORM_STEPS, PLATFORM_SMOKE_STEPS = 48, 6


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    group = typer.Typer(no_args_is_help=True, help="Ratios between contestants that take turns in one run.")
    group.callback()(_group)
    group.command("train")(train)
    group.command("data")(data)
    group.command("decode")(decode)
    group.command("serve")(serve)
    group.command("growth")(growth)
    group.command("page")(page)
    app.add_typer(group, name="bench")


def _group() -> None:
    """Ratios between contestants that take turns in one run."""


def train(
    model_only: Annotated[bool, typer.Option("--model-only", help="The model's training step alone.")] = False,
    loss_memory: Annotated[bool, typer.Option("--memory", help="The loss' peak memory alone.")] = False,
    platform: Annotated[bool, typer.Option("--platform", help="The whole platform against bare loops alone.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes: does the benchmark run?")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help=f"Rounds after the warm-up; {ROUNDS}, of the platform {PLATFORM_ROUNDS}.", min=1)
    ] = None,
) -> None:
    """The training step, the loss' memory, and the whole platform, each against its peers; options choose parts."""
    from mtp.cli.bench import machine
    from mtp.cli.bench.train_memory import bench_loss_memory
    from mtp.cli.bench.train_model import SMOKE, StepSize, bench_model_step
    from mtp.cli.bench.train_platform import bench_platform

    require_folder(json_file)
    step_rounds = SMOKE_ROUNDS if smoke else rounds or ROUNDS
    platform_rounds = 1 if smoke else rounds or PLATFORM_ROUNDS
    everything = not (model_only or loss_memory or platform)
    contestants: list[dict[str, Any] | Measured] = []
    ratios: list[Ratio] = []
    with watching_memory() as memory, telling("Measuring the machine's limits") as tell:
        limits = machine.limits()
        if model_only or everything:
            measured, found = bench_model_step(
                SMOKE if smoke else StepSize(),
                step_rounds,
                limits["matmul_flops"],
                in_words(tell),
            )
            contestants += measured
            ratios += found
        if loss_memory or everything:
            tell("Memory of the loss")
            entries, found = bench_loss_memory(smoke)
            contestants += entries
            ratios += found
        if platform or everything:
            tell("Starting the platform")
            steps = PLATFORM_SMOKE_STEPS if smoke else PLATFORM_STEPS
            with ray_session():
                runs, found = bench_platform(smoke, platform_rounds, steps, in_words(tell))
            contestants += runs
            ratios += found
    contestants += memory.entries()
    finish(contestants, ratios, limits, platform_rounds if platform and not model_only else step_rounds, json_file)


def data(
    prepare: Annotated[bool, typer.Option("--prepare", help="Tokenization instead of the row stream.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes: does the benchmark run?")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = ROUNDS,
) -> None:
    """The row stream against a memory map, and training's wait for it; or prepare against the tokenizers library."""
    from mtp.cli.bench import machine
    from mtp.cli.bench.data_prepare import bench_prepare
    from mtp.cli.bench.data_stream import bench_data_wait, bench_stream

    require_folder(json_file)
    rounds = SMOKE_ROUNDS if smoke else rounds
    with watching_memory() as memory, telling("Measuring the machine's limits") as tell:
        limits = machine.limits()
        tell("Starting Ray")
        with ray_session():
            bench = bench_prepare if prepare else bench_stream
            measured, ratios = bench(smoke, rounds, in_words(tell))
            if not prepare:
                tell("Training the quickstart's model")
                ratios.append(bench_data_wait(smoke, PLATFORM_SMOKE_STEPS if smoke else PLATFORM_STEPS))
    finish([*measured, *memory.entries()], ratios, limits, rounds, json_file)


def serve(
    model_uri: Annotated[
        str, typer.Argument(help="A trained model, as for deploy: drafts of another are not accepted.")
    ],
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes: does the benchmark run?")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = ROUNDS,
    vllm_python: Annotated[
        str | None,
        typer.Option(envvar="MTP_VLLM_PYTHON", help="Interpreter of an environment with vLLM, to run it beside."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw latency against load into this PNG.")] = None,
) -> None:
    """Tokens through HTTP against the engine alone, standard decoding and vLLM: 1, 4, 16 clients, then open loops."""
    from mtp.cli.bench import machine
    from mtp.cli.bench.serve_clients import SMOKE, ServeSize
    from mtp.cli.bench.serve_http import CONCURRENCY, bench_serve
    from mtp.cli.bench.serve_load import latency_figure
    from mtp.cli.session import registry
    from mtp.registry import fetch_model

    require_folder(json_file)
    require_folder(figure, "--figure")
    rounds = SMOKE_ROUNDS if smoke else rounds
    folder = fetch_model(model_uri, registry())
    with watching_memory() as memory, telling("Measuring the machine's limits") as tell:
        limits = machine.limits()
        tell("Starting Ray and the endpoint")
        with ray_session():
            found = bench_serve(
                folder,
                SMOKE if smoke else ServeSize(),
                rounds,
                CONCURRENCY,
                in_words(tell),
                vllm_python,
            )
    absent = "vLLM needs an environment of its own: name its interpreter with --vllm-python"
    missing = {"name": "vllm", "unit": "tokens/s", "median": None, "detail": {"missing": absent}}
    if figure is not None:
        latency_figure(found.points).savefig(figure, dpi=120)
    others = [*found.others, *([] if vllm_python else [missing]), *memory.entries()]
    finish([*found.contestants, *others], found.ratios, limits, rounds, json_file)


def growth(
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes: does the benchmark run?")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = GROWTH_ROUNDS,
    figure: Annotated[Path | None, typer.Option(help="Draw every curve into this PNG.")] = None,
) -> None:
    """How costs grow with rows, lengths, horizons, batch, prompt, text and workers: exponents, fitted."""
    from mtp.cli.bench import growth_curves, machine
    from mtp.cli.bench.growth import growth_figure

    require_folder(json_file)
    require_folder(figure, "--figure")
    rounds = SMOKE_ROUNDS if smoke else rounds
    sizes = growth_curves.SMOKE if smoke else growth_curves.GrowthSizes()
    with watching_memory() as memory, telling("Measuring the machine's limits") as tell:
        limits = machine.limits()
        tell("Starting Ray")
        with ray_session():
            found = list(growth_curves.curves(sizes, smoke, rounds, in_words(tell)))
    if figure is not None:
        growth_figure(found).savefig(figure, dpi=120)
    finish([*(curve.entry() for curve in found), *memory.entries()], [], limits, rounds, json_file)


def require_folder(file: Path | None, option: str = "--json") -> None:
    """Refuse a file that could not be written, before the work."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UsageError(f"{option} {file}: there is no folder {file.absolute().parent}")


def page(
    file: Annotated[Path, typer.Argument(help="Markdown page that holds the two marks.")],
    reports: Annotated[list[Path], typer.Argument(help="Reports that mtp bench ... --json wrote.")],
) -> None:
    """Write the measured part of a Markdown page anew from reports."""
    from mtp.cli.bench.page import replace_measured

    replace_measured(file, reports)


def finish(
    contestants: list[dict[str, Any] | Measured],
    ratios: list[Ratio],
    limits: dict[str, float],
    rounds: int,
    json_file: Path | None,
) -> None:
    """Show the report, and write it if asked to."""
    from mtp.cli.bench import machine

    report = BenchReport(
        machine=machine.describe(),
        versions=machine.versions(),
        limits=limits,
        contestants=[entry if isinstance(entry, dict) else contestant_entry(entry) for entry in contestants],
        rounds=rounds,
        ratios=ratios,
    )
    report.show()
    if json_file is not None:
        report.write(json_file)
