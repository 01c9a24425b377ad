import copy
import json

import pytest
import torch

from mtp.checkpoint import load_model, save_model
from mtp.decode.probe import FILE_NAME, check_probe, own_rows, read_probe, record_probe
from mtp.errors import MTPError
from mtp.model import MTPModel
from tests.decode.letters import letters
from tests.decode.tiny import KINDS, tiny_config, toy_rows, train


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return train(MTPModel(tiny_config(KINDS["sequential"])), 60)


def rows():
    return toy_rows(8, 40, torch.Generator().manual_seed(3)).tolist()


def swap(name_of_one, name_of_other):
    def damage(state):
        for name in [name for name in state if name_of_one in name]:
            other = name.replace(name_of_one, name_of_other)
            if state[name].shape == state[other].shape:
                state[name], state[other] = state[other], state[name]

    return damage


def halves(state):
    """eh_proj with the hidden half first, as some write it."""
    for name in [name for name in state if name.endswith("eh_proj.weight")]:
        state[name] = state[name].roll(state[name].shape[1] // 2, dims=1)


def without_norms(state):
    """As if the chain went on with states that are not normed as in training."""
    for name in [name for name in state if name.endswith(("hnorm.weight", "modules_by_depth.0.norm.weight"))]:
        state[name] = state[name] * 0 + 1e-3


def missing(state):
    for name in [name for name in state if ".modules_by_depth.1." in name]:
        state[name] = torch.randn_like(state[name]) * 0.02


DAMAGES = {
    "a module's block and the backbone's swapped": swap("prediction.modules_by_depth.0.block.", "model.layers.1."),
    "states of another norm in the chain": without_norms,
    "eh_proj in the other order": halves,
    "tensors of a module missing": missing,
    "embedding and output head swapped": swap("model.embed_tokens.weight", "lm_head.weight"),
}


def damaged(model, damage):
    other = copy.deepcopy(model)
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    damage(state)
    other.load_state_dict(state)
    return other.eval()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_folder_whose_tensors_were_swapped_is_refused_with_what_was_seen(trained, tmp_path, damage):
    folder = save_model(tmp_path / "model", damaged(trained, damage), letters())
    record_probe(folder, trained, rows())
    with pytest.raises(MTPError, match=r"horizon \d.* (was|agreed)"):
        check_probe(folder, load_model(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_an_untouched_model_passes_in_either_precision(kind, tmp_path):
    torch.manual_seed(1)
    model = MTPModel(tiny_config(KINDS[kind])).eval()
    folder = save_model(tmp_path / "model", model, letters())
    record_probe(folder, model, rows())
    seen = check_probe(folder, load_model(folder))
    assert seen.loss == pytest.approx(read_probe(folder).loss, abs=1e-4)
    check_probe(folder, load_model(folder, dtype=torch.bfloat16))


def test_without_a_record_only_a_learnt_model_with_useless_modules_is_refused(trained, tmp_path):
    assert own_rows(trained) == own_rows(trained)
    for model in (trained, MTPModel(tiny_config(KINDS["sequential"])).eval()):
        folder = save_model(tmp_path / "model", model, letters())
        check_probe(folder, load_model(folder))
    folder = save_model(tmp_path / "model", damaged(trained, halves), letters())
    with pytest.raises(MTPError, match="have collapsed"):
        check_probe(folder, load_model(folder))


def test_a_damaged_record_is_named(trained, tmp_path):
    folder = save_model(tmp_path / "model", trained, letters())
    record_probe(folder, trained, rows())
    tree = json.loads((folder / FILE_NAME).read_text())
    del tree["loss"]
    (folder / FILE_NAME).write_text(json.dumps(tree))
    with pytest.raises(MTPError, match=r"probe\.json is damaged"):
        check_probe(folder, trained)
