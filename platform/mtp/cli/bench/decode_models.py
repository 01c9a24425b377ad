"""The two models of `mtp bench decode`, trained by the platform itself on request and kept under MTP_HOME.

`small` (7M parameters) fits a processor's last-level cache; `large` (80M, latent 512 + 64 as DeepSeek's own) is
several times larger, so that a pass is bound by reading weights, as with real models. Both have one prediction module
that is recursed, and queries with a latent: what other engines can run too.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mtp.config import Config, build_config, home

DATA = {"seq_len": 256, "vocab_size": 4096}
PREDICTION = {"kind": "sequential", "n_future": 4, "share_modules": True}
SMALL = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "moe_intermediate_size": 176,
    "num_hidden_layers": 4, "num_attention_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "max_position_embeddings": 2048, "prediction": PREDICTION,
}  # fmt: skip
LARGE = SMALL | {
    "hidden_size": 512, "intermediate_size": 1408, "moe_intermediate_size": 288, "num_hidden_layers": 6,
    "first_k_dense_replace": 3, "num_attention_heads": 8, "q_lora_rank": 256, "kv_lora_rank": 512,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 32,
}  # fmt: skip
TINY = SMALL | {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 2}
SHAPES = {"small": SMALL, "large": LARGE}


@dataclass(frozen=True)
class Trained:
    """A model folder, and rows that it was not trained on."""

    folder: Path
    validation: Path


def training(name: str, minutes: float) -> Config:
    """One worker, small batches: these models see few tokens, so every one of them should move the weights."""
    folder = home() / "cache" / "bench-decode"
    large = name == "large"
    return build_config(
        {
            "data": {**DATA, "path": str(folder / "data")},
            "model": SHAPES[name],
            "train": {
                "run_name": f"{name}-{minutes:g}",
                "storage_path": str(folder / "runs"),
                "num_workers": 1,
                "batch_size": 1 if large else 4,
                "steps": None,
                "minutes": minutes,
                "evaluate_rows": 16,
                "optimizer": {"lr": 1.5e-3 if large else 3e-3},
                "checkpoint": {"every_steps": 1_000_000, "keep": 1},
            },
            "tracking": {"experiment": "bench", "uri": f"sqlite:///{folder / 'mlflow.db'}"},
        }
    )


def trained(name: str, minutes: float) -> Trained:
    """The model, trained now unless it is in the cache already; the process must be connected to Ray then."""
    config = training(name, minutes)
    folder = home() / "cache" / "bench-decode" / f"{name}-{minutes:g}"
    validation = Path(config.data.path) / "validation"
    if not (folder / "config.json").is_file():
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
        shutil.copytree(result.model_dir, staging)
        staging.replace(folder)
    return Trained(folder, validation)


def is_cached(name: str, minutes: float) -> bool:
    """Whether `trained` has nothing to do."""
    return (home() / "cache" / "bench-decode" / f"{name}-{minutes:g}" / "config.json").is_file()
