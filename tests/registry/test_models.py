"""The life of a model in a real registry: registered whole, found again, promoted, fetched."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from mtp.errors import MTPError, UsageError
from mtp.registry import (
    Gate,
    ModelCard,
    fetch_model,
    promote,
    promotions,
    record_gates,
    register_model,
    registered_models,
    resolve_version,
    roll_back,
    set_alias,
    start_run,
    versions,
)
from mtp.registry.connection import client
from mtp.registry.files import checksums

PARENT = "models:/old/7"
CARD = ModelCard(
    perplexity=41.25,
    acceptance=(0.6, 0.3),
    agreement=(0.7, 0.5),
    tokens_per_step=1.78,
    data_fingerprint="abc",
    parent=PARENT,
)


@pytest.fixture
def registered(tracking, model_folder):
    """A registered version with an alias: (name, version, run id, uri)."""
    run_id = start_run(tracking, "train", {})
    name = f"model-{run_id[:8]}"
    version = register_model(run_id, model_folder, name, "candidate", card=CARD, uri=tracking.uri)
    return name, version, run_id, tracking.uri


def test_a_version_comes_back_byte_for_byte_by_every_kind_of_uri(registered, model_folder):
    name, version, run_id, uri = registered
    uris = (f"models:/{name}/{version}", f"models:/{name}@candidate", f"runs:/{run_id}/model", str(model_folder))
    for model_uri in uris:
        assert checksums(fetch_model(model_uri, uri)) == checksums(model_folder)
    assert resolve_version(f"models:/{name}@candidate", uri) == f"models:/{name}/{version}"


def test_versions_show_aliases_figures_and_the_run(registered, model_folder):
    name, version, run_id, uri = registered
    again = register_model(run_id, model_folder, name, uri=uri)
    newest, oldest = versions(name, uri=uri)
    assert (newest.version, oldest.version) == (again, version)
    assert newest.aliases == () and oldest.aliases == ("candidate",)
    assert (oldest.perplexity, oldest.acceptance, oldest.agreement) == (41.25, (0.6, 0.3), (0.7, 0.5))
    assert (oldest.tokens_per_step, oldest.data_fingerprint, oldest.run_id) == (1.78, "abc", run_id)
    assert "| perplexity on held-out text | 41.25 |" in oldest.description
    assert newest.perplexity is None
    assert registered_models(uri=uri)[name] == {"candidate": version}


def test_the_mlflow_client_of_anyone_can_download_the_version(registered, model_folder, tmp_path):
    import mlflow

    name, _, _, uri = registered
    mlflow.set_tracking_uri(uri)
    mlflow.artifacts.download_artifacts(f"models:/{name}@candidate", dst_path=str(tmp_path / "out"))
    assert checksums(tmp_path / "out").items() >= checksums(model_folder).items()
    assert (tmp_path / "out" / "MLmodel").is_file()


def test_a_version_knows_its_data_tokenizer_code_and_parent(registered, model_folder):
    name, _, run_id, uri = registered
    (found,) = versions(name, uri=uri)
    assert found.tokenizer_sha256 == checksums(model_folder)["tokenizer.json"]
    assert len(found.source_commit) == 40 and found.parent == PARENT and found.run_id == run_id
    assert f"`{PARENT}`" in found.description and found.source_commit[:12] in found.description


def test_the_card_shows_the_figures_of_the_run(local_tracking, model_folder):
    import httpx
    from matplotlib.figure import Figure

    from mtp.registry import log_figures

    run_id = start_run(local_tracking, "train", {})
    log_figures(run_id, {"acceptance.png": Figure()}, uri=local_tracking.uri)
    register_model(run_id, model_folder, "with-figures", uri=local_tracking.uri)
    (found,) = versions("with-figures", uri=local_tracking.uri)
    (link,) = re.findall(r"!\[figures/acceptance\.png\]\((\S+)\)", found.description)
    assert httpx.get(f"{local_tracking.uri}/{link}").content.startswith(b"\x89PNG")


def test_anyone_can_load_it_with_mlflow_and_predict(tracking, tmp_path):
    import mlflow

    from mtp.checkpoint import save_model
    from tests.evaluate.conftest import TOKENIZER, tiny_model

    folder = save_model(tmp_path / "real", tiny_model(), TOKENIZER)
    run_id = start_run(tracking, "train", {})
    version = register_model(run_id, folder, "predicts", uri=tracking.uri)
    mlflow.set_tracking_uri(tracking.uri)
    loaded = mlflow.pyfunc.load_model(f"models:/predicts/{version}")
    assert loaded.metadata.signature is not None
    assert len(loaded.predict(loaded.input_example, params={"max_tokens": 2})) == 1
    outputs = loaded.predict(["hello", "world"], params={"max_tokens": 5})
    assert len(outputs) == 2 and all(isinstance(output, str) for output in outputs)
    assert loaded.predict(["hello"], params={"max_tokens": 5}) == outputs[:1]


def test_a_version_of_a_newer_format_is_refused_in_one_sentence(registered):
    name, version, _, uri = registered
    client(uri).set_model_version_tag(name, str(version), "mtp.format", "99")
    for call in (
        lambda: fetch_model(f"models:/{name}/{version}", uri),
        lambda: versions(name, uri=uri),
        lambda: promote(name, version, uri=uri),
    ):
        with pytest.raises(MTPError, match=r"newer mtp \(format 99, this one knows 1\)"):
            call()


def test_what_does_not_exist_is_named_beside_what_does(registered):
    name, version, _, uri = registered
    with pytest.raises(UsageError, match=f"no registered model 'nope'.*{name}"):
        fetch_model("models:/nope/1", uri)
    with pytest.raises(UsageError, match=f"{name} has no version 99; there are: {version}"):
        fetch_model(f"models:/{name}/99", uri)
    with pytest.raises(
        UsageError, match=rf"{name} has no alias 'champion'; there are: candidate \(version {version}\)"
    ):
        fetch_model(f"models:/{name}@champion", uri)
    with pytest.raises(UsageError, match="no run 'feed'"):
        fetch_model("runs:/feed/model", uri)
    with pytest.raises(UsageError, match="is no model URI"):
        fetch_model(f"models:/{name}", uri)
    with pytest.raises(UsageError, match="no model folder"):
        fetch_model("/does/not/exist", uri)
    with pytest.raises(UsageError, match="there are"):
        versions("nope", uri=uri)
    with pytest.raises(UsageError, match="has no version 99"):
        set_alias(name, "x", 99, uri=uri)


def test_a_run_without_a_model_is_an_error(tracking):
    run_id = start_run(tracking, "train", {})
    with pytest.raises(UsageError, match="has no model"):
        fetch_model(f"runs:/{run_id}/model", tracking.uri)


@pytest.mark.parametrize("name", ["weights.pkl", "pytorch_model.bin", "model.pt"])
def test_a_folder_with_a_pickle_is_refused(tracking, model_folder, name):
    (model_folder / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=f"{name}, which could run code"):
        register_model("unused", model_folder, "m", uri=tracking.uri)
    with pytest.raises(UsageError, match=f"{name}, which could run code"):
        fetch_model(str(model_folder))


def test_an_incomplete_folder_is_refused(tracking, model_folder):
    (model_folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"tokenizer\.json missing"):
        register_model("unused", model_folder, "m", uri=tracking.uri)


def test_an_interrupted_upload_leaves_no_version(tracking, model_folder, monkeypatch):
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    run_id = start_run(tracking, "train", {})
    monkeypatch.setattr(MlflowArtifactsRepository, "log_artifacts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        register_model(run_id, model_folder, "never", uri=tracking.uri)
    assert "never" not in registered_models(uri=tracking.uri)
    with pytest.raises(UsageError, match="has no model"):
        fetch_model(f"runs:/{run_id}/model", tracking.uri)


def test_a_rotten_local_copy_is_fetched_again(registered, model_folder):
    name, version, _, uri = registered
    kept = fetch_model(f"models:/{name}/{version}", uri)
    (kept / "model.safetensors").write_bytes(b"rotten")
    assert checksums(fetch_model(f"models:/{name}/{version}", uri)) == checksums(model_folder)


def test_files_damaged_in_the_registry_are_not_served(registered, ray_cluster):
    from mtp.config import home

    name, version, run_id, uri = registered
    model_id = client(uri).get_run(run_id).outputs.model_outputs[0].model_id
    (stored,) = (home() / "artifacts").glob(f"*/models/{model_id}/artifacts/model.safetensors")
    stored.write_bytes(b"rotten")
    with pytest.raises(MTPError, match=r"damaged: model\.safetensors"):
        fetch_model(f"models:/{name}/{version}", uri)
    with pytest.raises(MTPError, match="damaged"):
        promote(name, version, uri=uri)


def test_promotion_moves_the_alias_when_all_checks_pass(registered, model_folder):
    name, version, run_id, uri = registered
    assert promote(name, version, gates={"perplexity": Gate(True, "41 below 50")}, uri=uri) is None
    later = register_model(run_id, model_folder, name, uri=uri)
    assert promote(name, later, uri=uri) == version
    assert registered_models(uri=uri)[name]["champion"] == later
    assert versions(name, uri=uri)[1].tags["gate.perplexity"] == "passed: 41 below 50"


def test_a_failed_check_keeps_the_alias_where_it_is_also_later(registered):
    name, version, _, uri = registered
    failing = {"exactness": Gate(False, "3 of 64 tokens differ"), "perplexity": Gate(True, "fine")}
    with pytest.raises(MTPError, match=r"not promoted: exactness \(3 of 64 tokens differ\) failed"):
        promote(name, version, gates=failing, uri=uri)
    with pytest.raises(MTPError, match="exactness"):
        promote(name, version, uri=uri)
    assert "champion" not in registered_models(uri=uri)[name]
    record_gates(name, version, {"exactness": Gate(True, "64 of 64 tokens equal")}, uri=uri)
    promote(name, version, uri=uri)
    assert registered_models(uri=uri)[name]["champion"] == version


def test_a_forced_promotion_is_written_down(registered):
    name, version, _, uri = registered
    failing = {"perplexity": Gate(False, "41 above 30")}
    assert promote(name, version, gates=failing, force=True, uri=uri) is None
    (move,) = promotions(name, uri=uri)
    assert (move.version, move.forced) == (version, "perplexity (41 above 30)")


def test_rolling_back_goes_to_the_version_before_and_again_to_the_one_before_that(registered, model_folder):
    name, first, run_id, uri = registered
    second, third = (register_model(run_id, model_folder, name, uri=uri) for _ in range(2))
    with pytest.raises(UsageError, match="no alias 'champion' to roll back"):
        roll_back(name, uri=uri)
    for version in (first, second, third):
        promote(name, version, uri=uri)
    assert roll_back(name, uri=uri) == (third, second)
    assert roll_back(name, uri=uri) == (second, first)
    assert registered_models(uri=uri)[name]["champion"] == first
    with pytest.raises(UsageError, match="there is no way back"):
        roll_back(name, uri=uri)
    promote(name, third, uri=uri)
    assert roll_back(name, uri=uri) == (third, first)


def test_a_promotion_counts_though_the_one_before_came_from_a_machine_whose_clock_is_a_day_fast(
    registered, model_folder, monkeypatch
):
    name, first, run_id, uri = registered
    second = register_model(run_id, model_folder, name, uri=uri)
    now = time.time_ns
    with monkeypatch.context() as there:
        there.setattr(time, "time_ns", lambda: now() + 86_400_000_000_000)
        promote(name, first, uri=uri)
    assert promote(name, second, uri=uri) == first
    assert registered_models(uri=uri)[name]["champion"] == second
    assert roll_back(name, uri=uri) == (second, first)


def test_promotions_of_several_processes_at_once_are_all_remembered(registered, model_folder, tmp_path):
    name, first, run_id, uri = registered
    numbers = [first, *(register_model(run_id, model_folder, name, uri=uri) for _ in range(2))]
    program = "import sys; from mtp.registry import promote; promote(sys.argv[1], int(sys.argv[2]), uri=sys.argv[3])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, name, str(number), uri],
            env={**os.environ, "MTP_HOME": str(tmp_path / str(number))},  # as on machines that share no lock
        )
        for number in numbers
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    moves = promotions(name, uri=uri)
    assert sorted(move.version for move in moves) == numbers
    assert registered_models(uri=uri)[name]["champion"] == moves[-1].version


def test_a_name_with_uri_characters_is_refused(tracking, model_folder):
    with pytest.raises(UsageError, match="cannot name a registered model"):
        register_model("unused", model_folder, "a/b", uri=tracking.uri)


def test_checksums_are_kept_with_the_model(registered, model_folder):
    _, _, run_id, uri = registered
    mlflow = client(uri)
    logged = mlflow.get_logged_model(mlflow.get_run(run_id).outputs.model_outputs[0].model_id)
    assert json.loads(logged.tags["mtp.sha256"]) == checksums(model_folder)
