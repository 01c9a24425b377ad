"""`mtp deploy | undeploy` an endpoint, `mtp generate` in this process."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mtp.cli.console import AsJson, OptionalConfigFile, Overrides, console, notes, print_json

if TYPE_CHECKING:
    from mtp.decode import DecodeStats, Token
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
    as_json: AsJson = False,
) -> None:
    """Serve a model on the cluster behind an OpenAI-compatible endpoint; returns when it is ready."""
    from cluster.local import connect
    from mtp.cli.cluster import configuration
    from serve.deploy import deploy as start

    settings = configuration(config, overrides).serve
    connect()
    with notes.status(f"Ray Serve loads {model_uri}"):
        url = start(model_uri, settings)
    if as_json:
        print_json({"model": model_uri, "endpoint": url})
    else:
        console.print(f"{model_uri} answers at {url}")


def undeploy(app_name: Annotated[str, typer.Option(help="Application to stop.")] = "mtp") -> None:
    """Stop serving."""
    from cluster.local import connect
    from serve.deploy import undeploy as stop

    connect()
    stop(app_name)
    console.print(f"{app_name} is not served any more")


def generate(
    model_uri: Annotated[str, typer.Argument(help="As for deploy.")],
    prompt: str,
    decoder: Annotated[str | None, typer.Option(help="Default: mtp where the model has modules.")] = None,
    num_draft_tokens: Annotated[int | None, typer.Option(help="Drafts a step; default: chosen by the engine.")] = None,
    max_tokens: int = 64,
    temperature: float = 0.0,
    seed: int | None = None,
    as_json: AsJson = False,
) -> None:
    """Continue PROMPT in this process; tokens are coloured by how they came."""
    from mtp.checkpoint import load_model
    from mtp.cli.session import registry
    from mtp.decode import DecodeStats, Sampling, Speculation, default_speculation, stream
    from mtp.registry import fetch_model
    from mtp.tokenizer import Tokenizer

    with notes.status(f"Loading {model_uri}"):
        folder = fetch_model(model_uri, registry())
        model, tokenizer = load_model(folder), Tokenizer.load(folder)
    default = default_speculation(model)
    speculation = Speculation(decoder=decoder or default.decoder, num_draft_tokens=num_draft_tokens)  # type: ignore[arg-type]
    speculation.check()
    stats = DecodeStats()
    tokens = stream(
        model,
        tokenizer.encode(prompt),
        Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed),
        speculation,
        eos_ids=(tokenizer.eos_id,),
        stats=stats,
    )
    if as_json:
        print_generation(list(tokens), tokenizer, stats)
    else:
        show_tokens(tokens, tokenizer, prompt, stats)


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
