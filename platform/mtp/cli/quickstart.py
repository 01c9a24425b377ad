"""`mtp quickstart`: the whole way on this machine, from raw text to an endpoint that answers.

Reads like the way of the data: cluster, prepare, train, evaluate, promote, deploy, measure. What each stage does lies
in its own module; here is only their order, and what happens when it is interrupted.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mtp.cli.console import AsJson, Overrides, notes
from mtp.config import Config, home, load_config, preset_path
from mtp.errors import UsageError

if TYPE_CHECKING:
    from mtp.cli.endpoint import Comparison
    from mtp.cli.quickstart_report import QuickstartReport

STAGES = ("cluster", "prepare", "train", "check", "deploy", "measure")


def register(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command("quickstart")(quickstart)


def quickstart(
    minutes: Annotated[float | None, typer.Option(help="Minutes of training.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text, JSONL or parquet of yours; default: the standard library's source.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The whole way on this machine: text, training, registry, endpoint; ends with a table of what was measured."""
    from mtp.cli.quickstart_report import show

    config = configuration(minutes, corpus, overrides or [])
    with stopped_if_interrupted(config) as keep:
        report = walk(config)
        keep()
    show(report, as_json)


def configuration(minutes: float | None, corpus: Path | None, overrides: list[str]) -> Config:
    """The preset with the options of the command line; every run has a name and folder of its own.

    Raises:
        UsageError: minutes is not positive, or the corpus does not exist.
    """
    chosen = ["data.overwrite=true", f"train.run_name=quickstart-{time.strftime('%Y%m%d-%H%M%S')}"]
    if minutes is not None:
        if not minutes > 0:
            raise UsageError(f"--minutes is {minutes:g}; it must be more than 0")
        chosen += [f"train.minutes={minutes}", "train.steps=null"]
    if corpus is not None:
        if not corpus.exists():
            raise UsageError(f"--corpus {corpus} does not exist; name a folder or file of text, JSONL or parquet")
        chosen.append(f"data.corpus={json.dumps(str(corpus.absolute()))}")
    config = load_config(preset_path("quickstart"), [*chosen, *overrides])
    # One folder for each corpus and way of showing it, so that a second run finds the first one's data.
    key = hashlib.sha256(config.data.model_dump_json().encode()).hexdigest()[:12]
    return load_config(
        preset_path("quickstart"), [*chosen, f"data.path={home() / 'data' / f'quickstart-{key}'}", *overrides]
    )


@contextmanager
def stopped_if_interrupted(config: Config) -> Iterator[Callable[[], object]]:
    """Undo what was started when the block does not reach its end; call the yielded function to keep it."""
    from cluster.local import down, load_state
    from serve.deploy import undeploy

    found_running = load_state() is not None
    with ExitStack() as undo:
        undo.callback(lambda: notes.print("Stopping what quickstart started"))
        undo.callback(lambda: undeploy(config.serve.app_name) if found_running else down())
        yield undo.pop_all


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A heading with the stage's number, and the seconds it took."""
    notes.rule(f"[bold]{STAGES.index(name) + 1}/{len(STAGES)} {escape(name)}", align="left")
    began = time.monotonic()
    yield
    notes.print(f"[dim]{name} took {time.monotonic() - began:.0f} s")


def walk(config: Config) -> "QuickstartReport":
    """Every stage in order; each uses what the one before left in its registry or folder."""
    from cluster.local import connect, up
    from jobs import prepare, train
    from mtp.cli.progress import showing
    from mtp.cli.quickstart_checks import quickstart_gates
    from mtp.cli.quickstart_report import QuickstartReport
    from mtp.registry import promote
    from serve.deploy import deploy

    with stage("cluster"), notes.status("Starting Ray and MLflow on this machine") as spinner:
        cluster = connect(up(config.cluster, on_progress=lambda text: spinner.update(escape(text))))
    with stage("prepare"), showing() as on_progress:
        prepared = prepare.run(config, on_progress)
    with stage("train"):
        trained = train.run(config)
    with stage("check"):
        gates = quickstart_gates(trained.evaluation, config.model.vocab_size)
        promote(trained.model_name, trained.version, "champion", gates)
    champion = f"models:/{trained.model_name}@champion"
    with stage("deploy"), notes.status(f"Ray Serve loads {champion}"):
        endpoint = deploy(champion, config.serve)
    with stage("measure"), notes.status("Standard and MTP decoding take turns over HTTP"):
        speed = measure(endpoint, trained.model_name, prepared.path, config)
    return QuickstartReport(
        model=champion,
        run_id=trained.run_id,
        corpus=prepared.corpus,
        train_tokens=prepared.train_tokens,
        steps=trained.steps,
        perplexity=trained.evaluation.perplexity,
        bits_per_byte=trained.evaluation.bits_per_byte,
        agreement=trained.evaluation.agreement,
        acceptance=trained.evaluation.decoding.acceptance if trained.evaluation.decoding else [],
        tokens_per_step=speed.tokens_per_step,
        standard_tokens_per_s=speed.standard_tokens_per_s,
        mtp_tokens_per_s=speed.mtp_tokens_per_s,
        speedup=speed.ratio,
        identical=speed.identical,
        checks={name: f"passed, {gate.detail}" for name, gate in gates.items()},
        endpoint=endpoint,
        mlflow=cluster.mlflow_url,
        dashboard=cluster.dashboard_url,
    )


def measure(endpoint: str, model: str, data: str, config: Config) -> "Comparison":
    """Both decoders on held-out prompts, through the endpoint."""
    from mtp.cli.endpoint import compare_decoders
    from mtp.data import read_rows
    from mtp.evaluate.decoding import held_out_prompts

    settings = config.evaluate
    rows = read_rows(f"{data}/validation", limit=settings.max_rows)
    prompts = held_out_prompts(*rows, settings.prompts, settings.prompt_tokens)
    return compare_decoders(endpoint, model, prompts, settings.new_tokens)
