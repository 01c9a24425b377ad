import torch

from mtp.config import build_config
from mtp.data import open_training_data
from mtp.model import MTPModel
from mtp.objective import MTPObjective
from mtp.train.plain import train_plain
from tests.train.datasets import write_dataset
from tests.train.small import SIZES


def config_of(root, **sections):
    return build_config(
        {
            "data": {"path": str(root), "seq_len": 32, "vocab_size": 300},
            "model": {**SIZES, "vocab_size": 300, "n_routed_experts": 4},
            "train": {"batch_size": 4, "num_workers": 1, "optimizer": {"lr": 1e-2}},
            **sections,
        }
    )


def trained(config, steps):
    torch.manual_seed(0)
    model = MTPModel(config.model)
    return model, list(train_plain(model, open_training_data(config.data), config, steps))


def test_it_learns_and_the_same_seed_gives_the_same_model(tmp_path):
    config = config_of(write_dataset(tmp_path / "data"))
    model, steps = trained(config, 30)
    assert steps[-1].loss < steps[0].loss - 0.5
    assert [step.step for step in steps] == list(range(1, 31)) and steps[-1].tokens > steps[0].tokens > 0
    again, _ = trained(config, 30)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_with_a_detached_backbone_only_modules_move_expert_biases_included(tmp_path):
    config = config_of(write_dataset(tmp_path / "data"), objective={"detach_backbone": True})
    torch.manual_seed(0)
    before = MTPModel(config.model).state_dict()
    model, _ = trained(config, 5)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("e_score_correction_bias" in name for name in moved)
    assert all(name.startswith("prediction.") for name in moved)


def test_modules_that_learn_from_the_model_guess_it_more_often_than_those_that_learn_from_the_text(tmp_path):
    root = write_dataset(tmp_path / "data")
    agreement = {}
    for share in (0.0, 1.0):
        config = config_of(root, objective={"detach_backbone": True, "distillation": share})
        model, _ = trained(config, 60)
        rows = open_training_data(config.data).first_rows(0, 8)
        objective = MTPObjective(config.objective, config.model.n_future)
        targets = objective.targets(*rows)
        with torch.no_grad():
            output = objective(
                model(*rows), model.heads(), targets, torch.ones(config.model.n_future), objective.denominators(targets)
            )
        agreement[share] = float(output.agree[1] / output.counts[1])
    assert agreement[1.0] > agreement[0.0] + 0.1
