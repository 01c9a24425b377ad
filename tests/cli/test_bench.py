"""Every benchmark runs in its smallest form and writes the report that others read."""

import json
import subprocess
import sys

import pytest

from mtp.cli.bench.draft_price import needed_share


def test_bench_train_smoke_writes_the_ratios_by_their_names(tmp_path):
    path = tmp_path / "report.json"
    command = [
        sys.executable,
        "-c",
        "from mtp.cli import main; main()",
        "bench",
        "train",
        "--model-only",
        "--memory",
        "--smoke",
        "--json",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert set(report) == {"machine", "versions", "limits", "contestants", "rounds", "ratios"}
    assert {ratio["name"] for ratio in report["ratios"]} == {
        "step_vs_huggingface",
        "mfu",
        "mtp_overhead_vs_flops_n2",
        "mtp_overhead_vs_flops_n4",
        "loss_memory_4_vs_1",
        "loss_memory_vs_plain",
    }
    for ratio in report["ratios"]:
        assert ratio["min"] <= ratio["median"] <= ratio["max"]
        expected = (
            ratio["median"] >= ratio["target"] if ratio["better"] == "higher" else ratio["median"] <= ratio["target"]
        )
        assert ratio["holds"] == expected


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from mtp.cli import main; main()",
        "bench",
        "train",
        "--json",
        "/no/such/folder/x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "/no/such/folder" in done.stderr


def test_bench_decode_smoke_writes_the_ratios_by_their_names(tmp_path):
    path = tmp_path / "report.json"
    command = [sys.executable, "-c", "from mtp.cli import main; main()", "bench", "decode", "--smoke"]
    command += ["--against", "vllm", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    names = {ratio["name"] for ratio in report["ratios"]}
    assert {"mtp_vs_standard_b1_small", "int8_vs_standard_b1_small", "worst_cell_vs_standard_small"} <= names
    entries = {entry["name"]: entry for entry in report["contestants"]}
    assert entries["small vllm"]["median"] is None
    assert 0 < entries["small b2 mtp, every draft accepted"]["median"] <= 4


def test_the_share_of_drafts_that_a_number_of_tokens_asks_for():
    assert needed_share(1, 1.5) == pytest.approx(0.5)
    assert needed_share(2, 1.75) == pytest.approx(0.5)
    assert needed_share(3, 4.0) == pytest.approx(1.0)
    assert needed_share(1, 2.01) is None
    assert needed_share(0, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        pytest.param(["data"], {"stream_vs_memmap", "data_wait_fraction"}, marks=pytest.mark.slow),
        pytest.param(["data", "--prepare"], {"prepare_vs_tokenizers"}, marks=pytest.mark.slow),
        pytest.param(
            ["train", "--platform"],
            {
                "platform_vs_bare_loop",
                "workers_2_vs_1",
                "workers_2_vs_1_same_batch",
                "zero_1_vs_0",
                "platform_vs_hf_trainer",
            },
            marks=pytest.mark.long,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_platforms_benchmarks_run_in_their_smallest_form(tmp_path, command, names):
    path = tmp_path / "report.json"
    script = "from mtp.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "bench", *command, "--smoke", "--json", str(path)],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    found = {ratio["name"] for ratio in report["ratios"]}
    assert names <= found <= names | {"platform_vs_hf_trainer"}  # the Trainer needs a package that may be absent
    if "--platform" in command:
        stages = [entry for entry in report["contestants"] if entry["name"].startswith("start-up: ")]
        assert len(stages) == 3 and all(stage["median"] >= 0 for stage in stages)
        peaks = {one["name"]: one["median"] for one in report["contestants"] if one["name"].startswith("peak memory")}
        assert peaks["peak memory: this process"] > 256 << 20
        assert peaks["peak memory: ray::RayTrainWorker"] > 256 << 20


@pytest.mark.slow
def test_bench_growth_smoke_fits_every_exponent_and_draws_them(tmp_path):
    path, figure = tmp_path / "report.json", tmp_path / "growth.png"
    command = [sys.executable, "-c", "from mtp.cli import main; main()", "bench", "growth", "--smoke"]
    command += ["--json", str(path), "--figure", str(figure)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one["detail"] for one in json.loads(path.read_text())["contestants"]}
    curves = {name: detail for name, detail in found.items() if "exponent" in detail}
    assert {name.rsplit(" by ", 1)[1] for name in curves} == {
        "rows", "tokens of a row", "horizons", "batch", "tokens of the prompt", "MB of text", "workers of a thread",
    }  # fmt: skip
    assert all(len(one["sizes"].split()) == len(one["seconds"].split()) >= 2 for one in curves.values())
    assert figure.stat().st_size > 10_000


@pytest.mark.slow
def test_bench_serve_smoke_writes_the_ratios_by_their_names(tmp_path):
    import torch

    from mtp.checkpoint import save_model
    from mtp.model import MTPModel
    from mtp.tokenizer import Tokenizer
    from tests.decode.tiny import KINDS, tiny_config

    tokenizer = Tokenizer.train(["def f(x):\n    return x + 1\n"] * 20, 300)
    torch.manual_seed(0)
    model = MTPModel(tiny_config(KINDS["sequential"], vocab_size=tokenizer.vocab_size))
    folder, path = save_model(tmp_path / "toy", model, tokenizer), tmp_path / "report.json"
    command = [sys.executable, "-c", "from mtp.cli import main; main()", "bench", "serve", str(folder), "--smoke"]
    done = subprocess.run(
        [*command, "--json", str(path), "--figure", str(tmp_path / "latency.png")],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    names = {f"{ratio}_c{clients}" for ratio in ("http_vs_engine", "mtp_vs_standard") for clients in (1, 4, 16)}
    assert {ratio["name"] for ratio in report["ratios"]} == names
    assert all("first ms p50/p99" in one["detail"] for one in report["contestants"] if one["name"].startswith("HTTP"))
    rows = [one["name"].split(",")[0] for one in report["contestants"] if not one["name"].startswith("peak memory")]
    assert rows[-6:] == ["Ray Serve alone", *["open loop"] * 4, "vllm"]
    assert (tmp_path / "latency.png").stat().st_size > 10_000
