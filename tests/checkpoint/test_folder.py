import json

import pytest
import torch

from mtp.checkpoint import load_model, load_model_config, save_model
from mtp.checkpoint.folder import CACHE_LINE
from mtp.errors import MTPError
from mtp.tokenizer import Tokenizer
from tests.checkpoint.models import VOCABULARY, fresh
from tests.model.configurations import KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_comes_back_bit_identical_with_its_config_and_tokenizer(kind, tied, tokenizer, tmp_path):
    model = fresh(kind=kind, tie_word_embeddings=tied).eval()
    save_model(tmp_path / "m", model, tokenizer)
    back = load_model(tmp_path / "m")
    assert load_model_config(tmp_path / "m") == model.config
    assert Tokenizer.load(tmp_path / "m") == tokenizer
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    row = torch.randint(0, VOCABULARY, (2, 9))
    for a, b in zip(back(row), model(row), strict=True):
        torch.testing.assert_close(a, b)
    assert (back.lm_head.weight is back.model.embed_tokens.weight) == tied
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_loaded_model_can_be_trained_on(tokenizer, tmp_path):
    save_model(tmp_path / "m", fresh(), tokenizer)
    model = load_model(tmp_path / "m").train()
    model(torch.randint(0, VOCABULARY, (1, 8)))[-1].sum().backward()
    assert all(layer.tokens_per_expert.sum() > 0 for layer in model.expert_layers())


def test_the_gates_biases_stay_fp32_in_a_model_of_another_dtype(tokenizer, tmp_path):
    save_model(tmp_path / "m", fresh(), tokenizer)
    state = load_model(tmp_path / "m", dtype=torch.bfloat16).state_dict()
    for name, tensor in state.items():
        assert tensor.dtype == (torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16)


def test_loaded_weights_begin_with_a_line_of_the_caches(tokenizer, tmp_path):
    save_model(tmp_path / "m", fresh(), tokenizer)
    assert {tensor.data_ptr() % CACHE_LINE for tensor in load_model(tmp_path / "m").state_dict().values()} == {0}


def test_saving_replaces_a_model_and_a_failed_save_keeps_it(tokenizer, tmp_path):
    save_model(tmp_path / "m", fresh(seed=1), tokenizer)
    save_model(tmp_path / "m", fresh(seed=2), tokenizer)

    class Broken(Tokenizer):
        def save(self, path):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_model(tmp_path / "m", fresh(seed=3), Broken.from_json(tokenizer.to_json()))
    assert torch.equal(load_model(tmp_path / "m").lm_head.weight, fresh(seed=2).lm_head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("cut", [0, 4, 100, -10])
def test_a_torn_weights_file_is_refused(cut, tokenizer, tmp_path):
    save_model(tmp_path / "m", fresh(), tokenizer)
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(MTPError, match="not a whole safetensors file"):
        load_model(tmp_path / "m")


def test_what_is_no_model_folder_is_said_so(tmp_path):
    with pytest.raises(MTPError, match=r"config\.json: No such file.*model folder"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{oops")
    with pytest.raises(MTPError, match="not valid JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(MTPError, match="holds a list"):
        load_model(tmp_path)
