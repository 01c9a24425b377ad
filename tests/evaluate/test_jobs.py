"""The jobs that measure: evaluate, refresh and compare on a real cluster with a real registry."""

import json
from pathlib import Path

import pytest

from mtp.checkpoint import load_model_config, save_model
from mtp.checkpoint.stored_weights import open_weights
from mtp.config import Config, build_config, home
from mtp.decode.probe import recorded_acceptance
from mtp.errors import MTPError, UsageError
from mtp.model import MTPModel
from mtp.registry import fetch_model, register_model, registered_models, start_run, versions
from mtp.registry.connection import client
from tests.train.datasets import small_tokenizer, write_dataset

MODEL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "max_position_embeddings": 64,
    "prediction": {"kind": "sequential", "n_future": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("prepared") / "text")


def configured(prepared: Path, uri: str, **sections) -> Config:
    return build_config(
        {
            "data": {"path": str(prepared), "seq_len": 32, "vocab_size": 300},
            "model": MODEL,
            "train": {"batch_size": 4, "num_workers": 1, "optimizer": {"lr": 1e-2}},
            "evaluate": {"max_rows": 20, "prompts": 6, "prompt_tokens": 8, "new_tokens": 12},
            "tracking": {"uri": uri, "experiment": "jobs", "model_name": "jobs-tiny"},
            **sections,
        }
    )


@pytest.fixture
def config(prepared, mlflow_uri):
    """A configuration whose model is a registered version, untrained."""
    import torch

    config = configured(prepared, mlflow_uri)
    torch.manual_seed(0)
    folder = save_model(prepared.parent / "model", MTPModel(config.model), small_tokenizer())
    run_id = start_run(config.tracking, "train", {})
    register_model(run_id, folder, "jobs-tiny", "candidate", uri=mlflow_uri)
    return config


def test_an_interrupted_evaluation_goes_on_and_its_figures_reach_the_version(config, monkeypatch):
    from jobs import evaluate

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "report_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(config)
    (folder,) = (home() / "evaluations").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "data-prompts-00000000.json",
        "data-prompts-00000004.json",
        "data-rows-00000000.json",
    ]
    (folder / "data-prompts-00000004.json").unlink()
    again = []
    measured = evaluate.spread
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "spread", lambda task, left, **more: measured(task, again.extend(left) or left, **more))
        report = evaluate.run(config)
    assert [spec.name for spec in again] == ["data-prompts-00000004"]
    assert not folder.exists()
    found = versions("jobs-tiny", uri=config.tracking.uri)[0]
    assert found.perplexity == report.perplexity and found.acceptance == tuple(report.decoding.acceptance)
    mlflow = client(config.tracking.uri)
    (run, *_) = mlflow.search_runs(
        [mlflow.get_experiment_by_name("jobs").experiment_id], f"tags.`mtp.model` = 'models:/jobs-tiny/{found.version}'"
    )
    assert run.data.metrics["eval/ppl"] == report.perplexity
    files = {file.path for part in (None, "figures") for file in mlflow.list_artifacts(run.info.run_id, part)}
    assert {"figures/reliability.png", "figures/acceptance.png", "evaluation_table.json"} <= files


def test_a_task_file_is_scored_with_the_evaluation_and_its_scores_are_metrics_of_the_run(config, tmp_path):
    from jobs import evaluate
    from tests.evaluate.test_tasks import CHOICE, write_task

    file = write_task(tmp_path, **CHOICE)
    report = evaluate.run(
        config.model_copy(
            update={
                "evaluate": config.evaluate.model_copy(update={"tasks": (file,), "task_documents": 2, "prompts": 0})
            }
        )
    )
    (scores,) = report.tasks
    assert scores.documents == 2 and report.metrics()["eval/local_words/acc"] == scores.scores["acc"]
    mlflow = client(config.tracking.uri)
    experiment = mlflow.get_experiment_by_name("jobs").experiment_id
    (run, *_) = mlflow.search_runs([experiment], "attributes.run_name LIKE 'evaluate %'")
    assert run.data.metrics["eval/local_words/acc"] == scores.scores["acc"]


def test_data_of_another_tokenizer_is_refused_by_the_job(config, tmp_path):
    from jobs import evaluate
    from tests.data.datasets import write_dataset as random_rows

    random_rows(tmp_path / "other")
    other = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"data": str(tmp_path / "other")})})
    with pytest.raises(UsageError, match="another tokenizer"):
        evaluate.run(other)


def test_a_refresh_trains_the_modules_alone_and_is_promoted_if_acceptance_rises(config):
    from jobs import refresh

    uri = config.tracking.uri
    parent = f"models:/jobs-tiny/{registered_models(uri=uri)['jobs-tiny']['candidate']}"
    chosen = config.refresh.model_copy(update={"model": "models:/jobs-tiny@candidate", "steps": 150})
    report = refresh.run(config.model_copy(update={"refresh": chosen}))
    assert report.parent == parent and report.steps == 150
    before, after = (open_weights(fetch_model(f"models:/jobs-tiny/{v}", uri)) for v in (parent[-1], report.version))
    changed = {name for name in before.shapes if not before.read(name).equal(after.read(name))}
    assert changed and all(name.startswith("prediction.") for name in changed)
    found = versions("jobs-tiny", uri=uri)[0]
    assert (found.version, found.parent) == (report.version, parent)
    refreshed = fetch_model(f"models:/jobs-tiny/{report.version}", uri)
    assert len(recorded_acceptance(refreshed)) == config.model.n_future - 1
    assert report.promoted == (sum(report.acceptance_after) > sum(report.acceptance_before))
    assert registered_models(uri=uri)["jobs-tiny"].get("champion") == (report.version if report.promoted else None)
    assert load_model_config(refreshed) == config.model


def test_a_refresh_of_a_model_without_modules_is_refused(prepared, mlflow_uri, tmp_path):
    from jobs import refresh

    none = {**MODEL, "prediction": {"kind": "none", "n_future": 1}}
    config = configured(prepared, mlflow_uri, model=none, refresh={"model": str(tmp_path / "none")})
    save_model(tmp_path / "none", MTPModel(config.model), small_tokenizer())
    with pytest.raises(UsageError, match="no prediction modules to refresh"):
        refresh.run(config)


def test_a_comparison_misses_a_data_set_before_it_trains_anything(prepared, mlflow_uri, monkeypatch, tmp_path):
    from jobs import compare

    monkeypatch.setattr(compare, "spread", lambda *_, **__: pytest.fail("it trained"))
    nowhere = str(tmp_path / "bytes")
    config = configured(prepared, mlflow_uri, compare={"tokens": 1500, "byte_data": nowhere})
    with pytest.raises(MTPError, match=rf"{nowhere}/train/manifest\.json does not exist"):
        compare.run(config)


@pytest.mark.long
def test_a_comparison_fills_its_five_tables_and_goes_on_where_it_was(prepared, mlflow_uri, monkeypatch):
    from jobs import compare

    settings = {"tokens": 1500, "seeds": [0, 1], "ablations": ["importance"], "curve_points": 2, "perplexities": [1e9]}
    evaluate = {"max_rows": 8, "prompts": 2, "prompt_tokens": 8, "new_tokens": 10}
    config = configured(prepared, mlflow_uri, compare=settings, evaluate=evaluate)
    report = compare.run(config)
    names = ["approaches", "decoders", "ablations", "convergence", "acceptance"]
    assert [table.name for table in report.tables] == names
    approaches, decoders, ablations, convergence, acceptance = report.tables
    assert [row[0] for row in approaches.rows][:2] == ["standard", "MTP sequential"]
    assert all(len(cell.values) == 2 for cell in approaches.rows[1][1:])
    assert all(cell.values == [1.0, 1.0] for cell in approaches.rows[0][1:4])
    assert max(approaches.rows[1][8].values) < 1e-6, "exact acceptance is exact"
    assert {"standard", "draft model", "prompt lookup"} < {row[0] for row in decoders.rows}
    assert len(ablations.rows) == 3 and len(convergence.rows) == 1 and acceptance.rows[-1][2] == "2.036"
    assert "± " in report.markdown()
    children = client(mlflow_uri).search_runs(
        [client(mlflow_uri).get_experiment_by_name("jobs").experiment_id],
        f"tags.`mlflow.parentRunId` = '{report.parent_run_id}'",
    )
    assert len(children) == 14  # five approaches and the draft model of two seeds, two more importances of one
    folder = Path(report.folder)
    assert json.loads((folder / "comparison.json").read_text())["tokens"] == 1500
    (next(folder.glob("decoders-*-1.json"))).unlink()
    done = []
    spread = compare.spread
    monkeypatch.setattr(compare, "spread", lambda task, left, **more: spread(task, done.extend(left) or left, **more))
    assert compare.run(config).parent_run_id == report.parent_run_id
    assert len(done) == 1, "only the decoders of one seed were measured again"


def test_the_command_refuses_with_the_failing_figure_writes_force_down_and_rolls_back(config, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from mtp.cli.app import app
    from mtp.registry import promotions

    monkeypatch.setenv("MLFLOW_TRACKING_URI", config.tracking.uri)
    limits = tmp_path / "limits.yaml"
    limits.write_text("promote: {audit_samples: null, min_tokens_per_step: null}\n")
    folder = fetch_model("models:/jobs-tiny@candidate", config.tracking.uri)
    run_id = start_run(config.tracking, "train", {})
    first, second = (register_model(run_id, folder, "promoted", uri=config.tracking.uri) for _ in range(2))

    def promote(*arguments):
        return CliRunner().invoke(app, ["promote", "promoted", *map(str, arguments), "--json"])

    refused = promote(first, "--config", limits)
    assert "perplexity (never evaluated; run mtp evaluate models:/promoted/1)" in str(refused.exception)
    forced = promote(first, "--config", limits, "--force")
    assert forced.exit_code == 0, forced.exception
    assert json.loads(forced.stdout)["gates"]["round-trip"]["passed"]
    assert promotions("promoted", uri=config.tracking.uri)[0].forced.startswith("perplexity")
    assert promote(second, "--config", limits, "--force").exit_code == 0
    assert json.loads(promote("--rollback").stdout) == {
        "name": "promoted",
        "version": first,
        "alias": "champion",
        "before": second,
        "gates": {},
    }
    assert promote().exception is not None, "neither a version nor --rollback"
