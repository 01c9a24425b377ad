"""The configuration and the prepared data set that the platform's benchmarks train on: the quickstart's, or a tiny one;
and the text that preparing is timed on.

The process must be connected to Ray where data is prepared.
"""

import shutil
import sysconfig
from pathlib import Path

from mtp.config import Config, home, load_config, preset_path

TINY = {
    "data.vocab_size": 300, "data.seq_len": 32, "model.vocab_size": 300, "model.hidden_size": 32,
    "model.intermediate_size": 48, "model.moe_intermediate_size": 16, "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2, "train.evaluate_rows": 8,
}  # fmt: skip


def bench_config(smoke: bool, **train: object) -> Config:
    """The quickstart's model and batch; `train` overrides keys of that section."""
    overrides = {f"train.{key}": value for key, value in train.items()}
    if smoke:
        small = Path(sysconfig.get_paths()["stdlib"]) / "json"
        overrides = {**TINY, "data.corpus": small, "data.path": home() / "data" / "bench-smoke", **overrides}
    else:
        overrides = {"data.path": home() / "data" / "bench", **overrides}
    chosen = {"train.minutes": "null", "train.run_name": "bench", **overrides}
    return load_config(preset_path("quickstart"), [f"{key}={value}" for key, value in chosen.items()])


def prepare_bench_data(config: Config) -> None:
    """Prepare `config.data`, or find it prepared."""
    from mtp.data.stream.prepare import prepare

    prepare(config.data.model_copy(update={"overwrite": True}))


def bench_text(size: int) -> Path:
    """A folder with about `size` bytes of the sources of the packages that are installed, made at the first call."""
    packages = Path(sysconfig.get_paths()["purelib"])
    folder = home() / "data" / f"bench-text-{size}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    taken = 0
    for source in sorted(packages.rglob("*.py")):
        if taken >= size:
            break
        target = partial / source.relative_to(packages)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        taken += source.stat().st_size
    partial.replace(folder)
    return folder
