"""The two models of `mtp bench decode`, trained by the platform itself on request and kept under MTP_HOME.

`small` (7M parameters) fits a processor's last-level cache; `large` (66M, latent 512 + 64 as DeepSeek's own) is
several times larger, so that a pass is bound by reading weights, as with real models. Most of `large` is experts of its
last layers, of which a token reads a fraction of what it reads of the dense ones: so a second token in a pass costs
little, as it does where many GPUs share the experts. Both have one prediction module that is recursed, and queries with
a latent: what other engines can run too.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtp.config import Config, build_config, home

DATA = {"seq_len": 256, "vocab_size": 2048}
PREDICTION = {"kind": "sequential", "n_future": 4, "share_modules": True}
SMALL = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 688, "moe_intermediate_size": 176,
    "num_hidden_layers": 4, "num_attention_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "max_position_embeddings": 2048, "embedding_initializer_range": 0.5, "prediction": PREDICTION,
}  # fmt: skip
LARGE = SMALL | {
    "hidden_size": 512, "intermediate_size": 2048, "moe_intermediate_size": 144, "num_hidden_layers": 6,
    "first_k_dense_replace": 4, "num_attention_heads": 8, "q_lora_rank": 256, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "n_routed_experts": 64,
}  # fmt: skip
TINY = SMALL | {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 2}
SHAPES = {"small": SMALL, "large": LARGE}
RECIPES: dict[str, dict[str, Any]] = {
    name: {
        "train": {"batch_size": 4, "optimizer": {"lr": rate}},
        "objective": {"lambdas": {"initial": 1.0}},
        "refresh": {"continuations": 0.5},
    }
    for name, rate in {"small": 3e-3, "large": 1.5e-3}.items()
}
"""Small batches: these models see few tokens, so every one of them should move the weights."""
REFRESHING = 0.25
"""Share of the minutes in which the modules alone learn from the finished model, as `mtp refresh` has it: with so
little training the two would agree on little else than what both are sure of."""
PROMPTS = 32
"""Held-out rows that begin as the prompts of the benchmark do; the model's probe takes others."""


@dataclass(frozen=True)
class Trained:
    """A model folder, and rows that it was not trained on."""

    folder: Path
    validation: Path


def training(name: str, minutes: float) -> Config:
    """The job of one worker that makes the model, up to its refresh."""
    kept, recipe = _kept(name, minutes), RECIPES[name]
    return build_config(
        {
            "data": {**DATA, "path": str(kept.with_name(f"data-{DATA['vocab_size']}"))},
            "model": SHAPES[name],
            "objective": recipe["objective"],
            "refresh": recipe["refresh"],
            "train": {
                "run_name": kept.name,
                "storage_path": str(kept.with_name("runs")),
                "num_workers": 1,
                "steps": None,
                "minutes": minutes * (1 - REFRESHING),
                "evaluate_rows": 16,
                "checkpoint": {"every_steps": 1_000_000, "keep": 1},
                **recipe["train"],
            },
            "tracking": {"experiment": "bench", "uri": f"sqlite:///{kept.with_name('mlflow.db')}"},
        }
    )


def trained(name: str, minutes: float) -> Trained:
    """The model, trained now unless it is in the cache already; the process must be connected to Ray then."""
    config, folder = training(name, minutes), _kept(name, minutes)
    if not is_cached(name, minutes):
        from mtp.data.stream.prepare import prepare
        from mtp.registry import finish_run, start_run, tracking_uri
        from mtp.train import fit

        prepare(config.data)
        uri = tracking_uri(config.tracking)
        run_id = start_run(config.tracking, f"bench-{name}", {})
        result = fit(config, run_id=run_id, tracking_uri=uri)
        finish_run(run_id, uri=uri)
        staging = folder.with_name(f".{folder.name}")
        shutil.rmtree(staging, ignore_errors=True)
        _refresh(Path(result.model_dir), config, result.steps, staging)
        leave_acceptance(staging, Path(config.data.path) / "validation")
        staging.replace(folder)
    return Trained(folder, Path(config.data.path) / "validation")


def _refresh(folder: Path, config: Config, steps_before: int, out: Path) -> None:
    """Train the modules of the model in `folder` for REFRESHING of the time.

    Their steps take half as long, and what the model continues of the rows of a step as long again.
    """
    import torch

    from mtp.checkpoint import load_model, save_model
    from mtp.data import open_training_data
    from mtp.tokenizer import Tokenizer
    from mtp.train.plain import train_modules

    shares = REFRESHING / (1 - REFRESHING) / (1 + config.refresh.continuations)
    steps = max(1, round(2 * steps_before * shares))
    rate = config.train.optimizer.model_copy(update={"lr": config.train.optimizer.lr / 2})
    chosen = config.model_copy(
        update={
            "train": config.train.model_copy(update={"optimizer": rate}),
            "data": config.data.model_copy(update={"seed": config.data.seed + 1}),
        }
    )
    model = load_model(folder, dtype=torch.float32)
    for _ in train_modules(model, open_training_data(chosen.data), chosen, steps):
        pass
    save_model(out, model, Tokenizer.load(folder))


def leave_acceptance(folder: Path, validation: Path) -> None:
    """The probe of the model in `folder`, with how many drafts stand: what a controller begins with."""
    import torch

    from mtp.checkpoint import load_model
    from mtp.data import read_rows
    from mtp.decode.probe import LENGTH, ROWS, record_probe

    tokens, _ = read_rows(validation, limit=PROMPTS + ROWS)
    record_probe(folder, load_model(folder, dtype=torch.float32), tokens[PROMPTS:, :LENGTH].tolist())


def is_cached(name: str, minutes: float) -> bool:
    """Whether `trained` has nothing to do."""
    return (_kept(name, minutes) / "config.json").is_file()


def _kept(name: str, minutes: float) -> Path:
    """The model's folder; another shape, text or training has another one."""
    recipe = json.dumps([DATA, SHAPES[name], RECIPES[name], REFRESHING], sort_keys=True).encode()
    digest = hashlib.blake2b(recipe, digest_size=4).hexdigest()
    return home() / "cache" / "bench-decode" / f"{name}-{minutes:g}-{digest}"
