"""`mtp plan`: what a training would need, for each ZeRO stage, before anything is rented."""

from typing import Annotated

import typer

from mtp.cli.console import AsJson, ConfigFile, Overrides, console, print_json, print_table
from mtp.config import load_config

GIB = 2**30
PARTS = ("weights", "modules", "gathered", "gradients", "optimizer", "buffers", "activations", "module_activations",
         "logits", "peak")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command("plan")(plan)


def plan(
    config: ConfigFile,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.", min=1)],
    overrides: Overrides = None,
    gpu: Annotated[str, typer.Option(help="Kind of GPU.")] = "H100-80GB",
    efficiency: Annotated[
        float, typer.Option(help="Share of the peak that a step's arithmetic reaches.", min=0.01, max=1.0)
    ] = 0.4,
    price: Annotated[float | None, typer.Option(help="Of one GPU for an hour.", min=0.0)] = None,
    as_json: AsJson = False,
) -> None:
    """Memory by part, communication, step time, tokens a day and cost, for each ZeRO stage."""
    from mtp.plan import Plan, accelerator, make_plan

    found: Plan = make_plan(
        load_config(config, overrides or ()), gpus, accelerator(gpu), efficiency=efficiency, price=price
    )
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    console.print(
        f"{found.parameters / 1e9:.4g}B parameters ({found.active_parameters / 1e9:.4g}B read by a token, "
        f"{found.module_parameters / 1e9:.4g}B in prediction modules), {found.flops_per_token / 1e9:.4g} GFLOP a "
        f"token, {found.tokens_per_step:,} tokens a step on {found.gpus} x {found.gpu}",
        highlight=False,
    )
    stages = [f"ZeRO {stage.zero_stage}" for stage in found.stages]
    print_table(
        "GiB on one GPU",
        ("part", *stages),
        [
            *((part, *(f"{stage.memory[part] / GIB:.2f}" for stage in found.stages)) for part in PARTS),
            ("fits", *("yes" if stage.fits else "NO" for stage in found.stages)),
        ],
    )
    rows = [
        ("GB sent a step", *(f"{stage.communication['total'] / 1e9:.2f}" for stage in found.stages)),
        ("compute, s", *(f"{stage.compute_s:.3g}" for stage in found.stages)),
        ("communication, s", *(f"{stage.communication_s:.3g}" for stage in found.stages)),
        ("step, s", *(f"{stage.step_s:.3g}" for stage in found.stages)),
        ("tokens a day", *(f"{stage.tokens_per_day:.3g}" for stage in found.stages)),
    ]
    if found.tokens:
        rows.append((f"GPU hours for {found.tokens:.3g} tokens", *(f"{s.gpu_hours:.4g}" for s in found.stages)))
    if price is not None:
        rows.append(("cost", *(f"{stage.cost or 0:,.0f}" for stage in found.stages)))
    print_table(f"A step at {found.efficiency:.0%} of the peak", ("figure", *stages), rows)
