import copy
import itertools
import json

import pytest
import torch

from mtp.checkpoint import load_model, save_model
from mtp.decode.probe import (
    CONTINUED,
    FILE_NAME,
    check_probe,
    own_rows,
    read_probe,
    record_probe,
    recorded_acceptance,
)
from mtp.errors import MTPError
from mtp.model import MTPModel
from tests.decode.letters import letters
from tests.decode.reference import speculative_greedy
from tests.decode.tiny import KINDS, tiny_config, tiny_model, toy_rows, train


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


def steps_of(origins, most):
    """(drafted, accepted) of each step after the prompt's; a request's last tokens leave room for fewer drafts."""
    left, steps, stood = len(origins) - 1, [], 0
    for origin in origins[1:]:
        if origin:
            stood += 1
            continue
        steps.append((min(most, left - 1), stood))
        left, stood = left - stood - 1, 0
    return steps


@pytest.mark.parametrize("kind", ["sequential", "parallel_2"])
def test_the_record_says_how_many_drafts_stand_when_the_model_goes_on(kind, tmp_path):
    model = tiny_model(kind)
    most = model.config.n_future - 1
    folder = save_model(tmp_path / "model", model, letters())
    few, count = rows()[:2], min(CONTINUED, model.config.max_position_embeddings - 20)
    record_probe(folder, model, few)
    steps = [step for row in few for step in steps_of(speculative_greedy(model, row[:20], count, most)[1], most)]
    drafted = [sum(made > k for made, _ in steps) for k in range(most)]
    stood = [sum(accepted > k for _, accepted in steps) for k in range(most)]
    shares = [1.0, *(a / b for a, b in zip(stood, drafted, strict=True))]
    assert recorded_acceptance(folder) == pytest.approx([b / a for a, b in itertools.pairwise(shares)])
    assert 0 < recorded_acceptance(folder)[0] < 1


def test_without_modules_or_a_record_no_drafts_are_expected(tmp_path):
    folder = save_model(tmp_path / "model", tiny_model("none"), letters())
    assert recorded_acceptance(folder) == ()
    record_probe(folder, tiny_model("none"), rows())
    assert recorded_acceptance(folder) == ()


def test_a_damaged_record_is_named(trained, tmp_path):
    folder = save_model(tmp_path / "model", trained, letters())
    record_probe(folder, trained, rows())
    tree = json.loads((folder / FILE_NAME).read_text())
    for damage in ({name: value for name, value in tree.items() if name != "loss"}, tree | {"acceptance": [1.5]}):
        (folder / FILE_NAME).write_text(json.dumps(damage))
        with pytest.raises(MTPError, match=r"probe\.json is damaged"):
            check_probe(folder, trained)
