import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file

from mtp.checkpoint import export_hf, import_hf, load_model, load_model_config, save_model
from mtp.errors import MTPError, UsageError
from tests.checkpoint.models import VOCABULARY, fresh
from tests.model.configurations import configurations


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def exported(tokenizer, tmp_path):
    save_model(tmp_path / "model", fresh(), tokenizer)
    return export_hf(tmp_path / "model", tmp_path / "exported")


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configurations("sequential"))
def test_export_then_import_gives_bit_identical_weights_and_the_same_config(config, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round")
    model = fresh(config.model_copy(update={"vocab_size": VOCABULARY}))
    if not any(config.is_moe_layer(layer) for layer in range(9)):
        return
    save_model(folder / "model", model, tokenizer)
    export_hf(folder / "model", folder / "out", max_shard_bytes=20_000)
    import_hf(folder / "out", folder / "back")
    assert same(load_model(folder / "back"), model)
    assert load_model_config(folder / "back") == model.config


def test_a_shared_module_comes_back_shared_and_bf16_stays_bf16(tokenizer, tmp_path):
    model = fresh(kind="shared").bfloat16()
    for layer in model.expert_layers():
        layer.gate.float()  # as training keeps them
        layer.gate.weight.data = layer.gate.weight.data.bfloat16()
    save_model(tmp_path / "model", model, tokenizer)
    export_hf(tmp_path / "model", tmp_path / "out")
    import_hf(tmp_path / "out", tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert back.config.prediction.share_modules
    assert back.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(
        back.prediction.modules_by_depth[0].eh_proj.weight, model.prediction.modules_by_depth[0].eh_proj.weight
    )


def test_the_export_has_the_public_names_and_the_two_duplicates(exported):
    tensors = load_file(exported / "model.safetensors")
    for layer in (3, 4):
        names = {name.removeprefix(f"model.layers.{layer}.") for name in tensors if f"layers.{layer}." in name}
        assert {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"} <= names
        assert {"mlp.experts.7.down_proj.weight", "mlp.gate.e_score_correction_bias"} <= names
        assert torch.equal(tensors[f"model.layers.{layer}.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
        assert torch.equal(tensors[f"model.layers.{layer}.shared_head.head.weight"], tensors["lm_head.weight"])
    assert not any("prediction" in name or "gate_up_proj" in name for name in tensors)


def test_config_json_has_what_other_loaders_look_for(exported):
    keys = json.loads((exported / "config.json").read_text())
    expected = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 2,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
    }
    assert expected.items() <= keys.items()


@pytest.mark.parametrize("kind", ["parallel1", "independent"])
def test_kinds_that_do_not_fit_are_refused_or_left_out_on_request(kind, tokenizer, tmp_path):
    model = fresh(kind=kind)
    save_model(tmp_path / "model", model, tokenizer)
    with pytest.raises(UsageError, match=r"no place in the DeepSeek-V3 layout.*--without-modules"):
        export_hf(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_hf(tmp_path / "model", tmp_path / "out", without_modules=True)
    import_hf(tmp_path / "out", tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert back.config.prediction.kind == "none"
    row = torch.randint(0, VOCABULARY, (1, 9))
    torch.testing.assert_close(back(row)[0], model.eval()(row)[0])


def test_modules_of_a_dense_model_are_refused(tokenizer, tmp_path):
    save_model(tmp_path / "model", fresh(n_routed_experts=0), tokenizer)
    with pytest.raises(UsageError, match="build prediction modules with experts"):
        export_hf(tmp_path / "model", tmp_path / "out")


def test_an_existing_folder_is_not_overwritten_by_export(tokenizer, tmp_path, exported):
    with pytest.raises(UsageError, match="exists already"):
        export_hf(tmp_path / "model", exported)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


EXPERT = "model.layers.2.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(EXPERT), f"tensor {EXPERT} is missing"),
        (lambda t: t.update(extra=torch.ones(2)), "tensor extra does not belong"),
        (lambda t: t.update({EXPERT: t[EXPERT].T.contiguous()}), rf"{EXPERT} has shape \(32, 16\).*\(16, 32\)"),
        (lambda t: t[EXPERT].fill_(float("nan")), f"tensor {EXPERT} holds NaN"),
        (lambda t: t.update({EXPERT: t[EXPERT].int()}), f"{EXPERT} has dtype I32"),
        (lambda t: t.update({EXPERT: t[EXPERT].bfloat16()}), f"{EXPERT} is torch.bfloat16.*one dtype"),
        (lambda t: t["model.layers.3.embed_tokens.weight"].add_(1), "model.layers.3.embed_tokens.weight differs"),
    ],
)
def test_damaged_weights_are_refused_by_the_name_of_the_tensor(change, said, exported, tmp_path):
    rewrite(exported, change)
    with pytest.raises(MTPError, match=said):
        import_hf(exported, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"fmt": "e4m3"}}, "quantization_config"),
        ({"n_group": 3}, r"n_routed_experts \(8\) does not divide by n_group"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_scaling is of type 'dynamic'"),
        ({"hidden_size": "many"}, "hidden_size"),
    ],
)
def test_configurations_of_other_models_are_refused_by_the_name_of_the_key(keys, said, exported, tmp_path):
    path = exported / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    with pytest.raises(MTPError, match=said):
        import_hf(exported, tmp_path / "back")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_folders_with_pickled_weights_are_refused_unread(name, exported, tmp_path):
    (exported / name).write_bytes(b"never read")
    with pytest.raises(MTPError, match=f"{name}: pickled weights are never loaded"):
        import_hf(exported, tmp_path / "back")


def test_an_index_cannot_point_outside_its_folder(exported, tmp_path):
    (exported / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../secret.safetensors"}}))
    with pytest.raises(MTPError, match="not in its own folder"):
        import_hf(exported, tmp_path / "back")


def test_a_checkpoint_that_transformers_saved_is_imported(exported, tmp_path):
    from tests.checkpoint.models import hugging_face

    theirs = hugging_face(exported)
    theirs.config.num_nextn_predict_layers = 0
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_bytes((exported / "tokenizer.json").read_bytes())
    keys = json.loads((tmp_path / "theirs" / "config.json").read_text())
    keys.pop("prediction", None)
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(keys))
    import_hf(tmp_path / "theirs", tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert torch.equal(back.lm_head.weight, load_model(tmp_path / "model").lm_head.weight)


def test_an_archive_is_not_unpacked(tmp_path):
    (tmp_path / "model.tar").write_bytes(b"x")
    with pytest.raises(UsageError, match="archives are not unpacked"):
        import_hf(tmp_path / "model.tar", tmp_path / "out")


def test_memory_holds_few_tensors_at_a_time_while_a_model_moves(tokenizer, tmp_path, monkeypatch):
    import weakref

    from mtp.checkpoint.stored_weights import StoredWeights

    alive, most = weakref.WeakSet(), 0
    read = StoredWeights.read

    def watched(self, name, index=()):
        nonlocal most
        tensor = read(self, name, index)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    save_model(tmp_path / "model", fresh(), tokenizer)
    monkeypatch.setattr(StoredWeights, "read", watched)
    export_hf(tmp_path / "model", tmp_path / "out", max_shard_bytes=20_000)
    import_hf(tmp_path / "out", tmp_path / "back")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert most <= 3
