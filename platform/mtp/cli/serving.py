"""`mtp deploy | undeploy` an endpoint, `mtp generate` in this process."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mtp.cli.console import Address, AsJson, OptionalConfigFile, Overrides, console, notes, print_json
from mtp.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from mtp.decode import DecodeStats, Token
    from mtp.model import MTPModel
    from mtp.tokenizer import Tokenizer

ORIGIN_STYLES = ("", "green", "cyan", "magenta", "yellow", "blue", "red")
"""By how a token came: 0 = the model's own choice, k = accepted draft position k."""


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command("deploy")(deploy)
    app.command("undeploy")(undeploy)
    app.command("generate")(generate)


def deploy(
    model_uri: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, folder.")],
    config: OptionalConfigFile = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Clients ask for it by this; default: the model's own.")] = None,
    canary: Annotated[
        float | None, typer.Option(help="Per cent of the name's traffic, beside the version served.", min=0.1, max=99.9)
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model on the cluster behind an OpenAI-compatible endpoint; returns when it is ready.

    A URI with an alias is followed: when the alias moves (mtp promote), the new version is rolled in.
    """
    from cluster.local import connect
    from mtp.cli.cluster import configuration
    from serve.deploy import deploy as start

    resolved = configuration(config, overrides)
    settings = resolved.serve
    if address is not None:
        options = [*(["--name", name] if name else []), *(["--canary", str(canary)] if canary else [])]
        raise typer.Exit(elsewhere(address, resolved, [model_uri, *options]))
    connect()
    with notes.status(f"Ray Serve loads {model_uri}"):
        url = start(model_uri, settings, name=name, canary_percent=canary, on_note=lambda text: notes.print(text))
    if as_json:
        print_json({"model": model_uri, "endpoint": url})
    else:
        console.print(f"{model_uri} answers at {url}")


def undeploy(
    model: Annotated[str | None, typer.Argument(help="Name of one of several models; default: everything.")] = None,
    app_name: Annotated[str, typer.Option(help="Endpoint to stop.")] = "mtp",
    address: Address = None,
) -> None:
    """Stop serving a model, or the whole endpoint."""
    from cluster.local import connect
    from mtp.cli.cluster import configuration
    from serve.deploy import undeploy as stop

    if address is not None:
        resolved = configuration(None, [f"serve.app_name={app_name}"])
        raise typer.Exit(elsewhere(address, resolved, ["--undeploy", *([model] if model else [])]))
    connect()
    what = model or app_name
    stopped = stop(app_name, model)
    console.print(f"{what} is not served any more" if stopped else f"{what} was not served")


def elsewhere(address: str, config: Config, arguments: list[str]) -> int:
    """Do it on the cluster at `address`, as a job of it (serve.remote); returns the job's exit code."""
    from cluster.staging import CONFIG_FILE, staged
    from cluster.submit import follow, send
    from mtp.cli.jobs import warn_of_risk

    warn_of_risk(address)
    with staged(config) as folder:
        words = ["python", "-m", "serve.remote", "--config", CONFIG_FILE, *arguments]
        job_id = send("deploy", shlex.join(words), str(folder), address)
    return follow(job_id, address=address)


def generate(
    model_uri: Annotated[str, typer.Argument(help="As for deploy.")],
    prompt: str,
    decoder: Annotated[str | None, typer.Option(help="Default: mtp where the model has modules.")] = None,
    num_draft_tokens: Annotated[int | None, typer.Option(help="Drafts a step; default: chosen by the engine.")] = None,
    draft_model: Annotated[str | None, typer.Option(help="URI of the small model of decoder draft_model.")] = None,
    acceptance: Annotated[str, typer.Option(help="exact; or, for comparison, threshold or typical (lossy).")] = "exact",
    max_tokens: int = 64,
    temperature: float = 0.0,
    seed: int | None = None,
    json_schema: Annotated[str | None, typer.Option(help="JSON schema, or @FILE, that the output satisfies.")] = None,
    regex: Annotated[str | None, typer.Option(help="Regular expression that the whole output matches.")] = None,
    grammar: Annotated[str | None, typer.Option(help="EBNF or Lark, or @FILE, that the output follows.")] = None,
    probe: Annotated[bool, typer.Option(help="Check the model against what it was when it was made.")] = True,
    as_json: AsJson = False,
) -> None:
    """Continue PROMPT in this process; tokens are coloured by how they came."""
    from mtp.cli.session import registry
    from mtp.decode import DecodeStats, GrammarCompiler, Sampling, Speculation, default_speculation, stream
    from mtp.registry import fetch_model
    from mtp.tokenizer import Tokenizer

    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        json_schema=argument_or_file(json_schema),
        regex=regex,
        grammar=argument_or_file(grammar),
    )
    with notes.status(f"Loading {model_uri}"):
        folder = fetch_model(model_uri, registry())
        model, tokenizer = load_checked(folder, probe), Tokenizer.load(folder)
        drafter = load_checked(fetch_model(draft_model, registry()), probe) if draft_model else None
    chosen = decoder or ("draft_model" if drafter else default_speculation(model).decoder)
    speculation = Speculation(decoder=chosen, num_draft_tokens=num_draft_tokens, acceptance=acceptance)  # type: ignore[arg-type]
    speculation.check()
    stats = DecodeStats()
    tokens = stream(
        model,
        tokenizer.encode(prompt),
        sampling,
        speculation,
        eos_ids=(tokenizer.eos_id,),
        stats=stats,
        grammars=GrammarCompiler(tokenizer, model.config.vocab_size),
        draft_model=drafter,
    )
    if as_json:
        print_generation(list(tokens), tokenizer, stats)
    else:
        show_tokens(tokens, tokenizer, prompt, stats)


def load_checked(folder: "Path", probe: bool) -> "MTPModel":
    """The model in `folder`; refused where the probe finds that its modules have collapsed."""
    from mtp.checkpoint import load_model
    from mtp.decode.probe import check_probe

    model = load_model(folder)
    if probe:
        check_probe(folder, model)
    return model


def argument_or_file(value: str | None) -> str | None:
    """An option's value; `@FILE` stands for the content of FILE."""
    from pathlib import Path

    from mtp.errors import UsageError

    if value is None or not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {value[1:]}: {error}") from None


def print_generation(tokens: list["Token"], tokenizer: "Tokenizer", stats: "DecodeStats") -> None:
    """Everything as JSON."""
    ids = [token.id for token in tokens]
    print_json(
        {
            "text": tokenizer.decode(ids),
            "tokens": ids,
            "origins": [token.origin for token in tokens],
            "tokens_per_step": stats.tokens_per_step,
            "acceptance_per_position": stats.acceptance_per_position,
            "target_passes": stats.target_passes,
            "draft_seconds": stats.draft_seconds,
            "verify_seconds": stats.verify_seconds,
        }
    )


def show_tokens(tokens: Iterator["Token"], tokenizer: "Tokenizer", prompt: str, stats: "DecodeStats") -> None:
    """Tokens as they come, coloured, and a legend with what decoding did."""
    text = tokenizer.stream()
    console.print(Text(prompt, style="dim"), end="")
    for token in tokens:
        console.print(Text(text.push([token.id]), style=style_of(token.origin)), end="", soft_wrap=True)
    console.print(text.finish())
    legend = Text("model's own")
    for position, share in enumerate(stats.acceptance_per_position, start=1):
        legend.append(f"  draft {position} ({share:.0%} accepted)", style=style_of(position))
    console.print(legend)
    console.print(f"{stats.tokens} tokens in {stats.target_passes} steps: {stats.tokens_per_step:.2f} tokens a step")


def style_of(origin: int) -> str:
    """Colour of a token's origin; positions beyond the palette share its last colour."""
    return ORIGIN_STYLES[min(origin, len(ORIGIN_STYLES) - 1)]
