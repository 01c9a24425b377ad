"""The quickstart in its shortest form, to the end, as a user runs it: a command, an endpoint, a registry, a job."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.ports import free_ports
from mtp.config import preset_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

MODEL = "mtp-quickstart"
SMALL = [
    "model.hidden_size=64",
    "model.intermediate_size=128",
    "model.moe_intermediate_size=32",
    "model.num_hidden_layers=2",
    "model.vocab_size=512",
    "data.vocab_size=512",
    "data.seq_len=64",
    "evaluate.max_rows=16",
    "evaluate.prompts=3",
    "evaluate.prompt_tokens=16",
    "evaluate.new_tokens=24",
    "train.evaluate_rows=16",
]


class User:
    """Runs `mtp` with a state folder and ports of its own."""

    def __init__(self, home: Path) -> None:
        # A user's shell does not carry what the session's own test cluster has exported.
        foreign = ("RAY_", "MLFLOW_", "MTP_")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        self.environment["MTP_HOME"] = str(home)
        ray, dashboard, mlflow, self.serve_port = free_ports(4)
        self.settings = [
            *SMALL,
            f"cluster.ray_port={ray}",
            f"cluster.dashboard_port={dashboard}",
            f"cluster.mlflow_port={mlflow}",
            "cluster.object_store_mb=200",
            f"serve.port={self.serve_port}",
        ]

    def mtp(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from mtp.cli import main; main()", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=self.environment)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str):
        return json.loads(self.mtp(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    user = User(tmp_path_factory.mktemp("home"))
    yield user
    user.mtp("down")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A few hundred kilobytes of the standard library, so that preparing takes seconds."""
    folder = tmp_path_factory.mktemp("corpus")
    for module in ("argparse", "ast", "decimal", "inspect", "ipaddress", "pathlib", "tarfile", "typing", "zipfile"):
        source = Path(sys.modules["os"].__file__).parent / f"{module}.py"
        if source.is_file():
            (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def report(user, corpus):
    return user.json("quickstart", "--minutes", "0.1", "--corpus", str(corpus), *user.settings)


def test_the_report_holds_what_was_measured(report):
    assert 1 < report["perplexity"] < 512
    assert len(report["agreement"]) == 3
    assert report["tokens_per_step"] >= 1
    assert report["standard_tokens_per_s"] > 0
    assert report["mtp_tokens_per_s"] > 0
    assert report["identical"]
    assert all(verdict.startswith("passed") for verdict in report["checks"].values())


def complete(report, decoder, **options):
    body = {"model": MODEL, "prompt": "def main(", "max_tokens": 32, "temperature": 0, "ignore_eos": True, **options}
    body["speculation"] = {"decoder": decoder}
    return httpx.post(f"{report['endpoint']}/v1/completions", json=body, timeout=60)


def test_the_endpoint_answers_and_greedy_mtp_equals_standard(report):
    mtp, standard = complete(report, "mtp"), complete(report, "standard")
    assert mtp.status_code == standard.status_code == httpx.codes.OK
    assert mtp.json()["choices"][0]["text"] == standard.json()["choices"][0]["text"]
    assert standard.json()["usage"]["speculation"]["tokens_per_step"] == 1
    served = httpx.get(f"{report['endpoint']}/v1/models", timeout=30).json()
    assert MODEL in [model["id"] for model in served["data"]]


def test_the_endpoint_streams_the_same_text(report):
    whole = complete(report, "mtp").json()["choices"][0]["text"]
    body = {
        "model": MODEL,
        "prompt": "def main(",
        "max_tokens": 32,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.stream("POST", f"{report['endpoint']}/v1/completions", json=body, timeout=60) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == whole


def test_mlflow_holds_the_run_its_figures_and_the_champion(report, user):
    api = f"{report['mlflow']}/api/2.0/mlflow"
    run = httpx.get(f"{api}/runs/get", params={"run_id": report["run_id"]}, timeout=30).json()["run"]
    assert run["info"]["status"] == "FINISHED"
    metrics = {metric["key"] for metric in run["data"]["metrics"]}
    assert {"train/loss", "train/loss_h1", "train/loss_h4", "train/lambda_h2", "train/agreement_h4"} <= metrics
    assert {"train/grad_norm", "train/lr", "train/tokens_per_s", "train/mfu", "train/data_wait_fraction"} <= metrics
    assert {"train/expert_load_max_violation", "eval/ppl", "eval/acceptance_p1", "eval/tokens_per_step"} <= metrics
    assert run["inputs"]["dataset_inputs"][0]["dataset"]["digest"]
    listing = {"run_id": report["run_id"], "path": "figures"}
    figures = httpx.get(f"{api}/artifacts/list", params=listing, timeout=30).json()["files"]
    names = {Path(figure["path"]).name for figure in figures}
    assert {"loss_per_horizon.png", "agreement_per_horizon.png", "acceptance.png"} <= names
    versions = user.json("models", MODEL)
    assert versions[0]["aliases"] == ["candidate", "champion"]
    assert versions[0]["perplexity"] == pytest.approx(report["perplexity"])


def test_status_shows_what_runs(report, user):
    found = user.json("status")
    assert found["cluster"] == "up"
    assert {application["status"] for application in found["applications"]} == {"running"}
    assert [application["url"] for application in found["applications"] if application["url"]] == [report["endpoint"]]
    assert [model["name"] for model in found["models"]] == [MODEL]


def test_generate_continues_a_prompt_in_process(report, user):
    answers = [
        user.json("generate", f"models:/{MODEL}@champion", "def main(", "--max-tokens", "16", "--decoder", decoder)
        for decoder in ("standard", "mtp")
    ]
    assert answers[0]["tokens"] == answers[1]["tokens"]


def test_a_submitted_training_ends_with_exit_code_0_and_its_log_shows_the_workers(report, user, tmp_path):
    prepared = next((Path(user.environment["MTP_HOME"]) / "data").glob("quickstart-*"))
    chosen = [
        *user.settings,
        f"data.path={prepared}",
        "train.minutes=null",
        "train.steps=4",
        "train.run_name=submitted",
    ]
    done = user.mtp("submit", "train", "--config", str(preset_path("quickstart")), *chosen)
    for rank in (0, 1):
        assert f"DeepSpeed worker {rank} of 2" in done.stdout
    assert "streamed by Ray Data" in done.stdout


def test_an_unknown_model_is_refused_and_the_endpoint_goes_on(report, user):
    refused = user.mtp("deploy", f"models:/{MODEL}@nobody", *user.settings, code=2)
    assert "nobody" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert complete(report, "mtp").status_code == httpx.codes.OK


def test_an_interrupted_quickstart_leaves_no_process_and_no_partial_folder(corpus, tmp_path):
    user = User(tmp_path)
    command = [sys.executable, "-c", "from mtp.cli import main; main()", "quickstart", "--corpus", str(corpus)]
    process = subprocess.Popen(
        [*command, *user.settings], env=user.environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "DeepSpeed worker" in line:
            break
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert user.json("status")["cluster"] == "down"
    deadline = time.monotonic() + 30
    while ours(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ours(tmp_path) == []
    assert [path for path in (tmp_path / "data").rglob("*") if "partial" in path.name or "tmp" in path.name] == []


def ours(home: Path) -> list[str]:
    """Processes that work for the state folder `home`."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if process.pid != os.getpid() and environment.get("MTP_HOME") == str(home):
            found.append(" ".join(process.info["cmdline"] or []))
    return found
