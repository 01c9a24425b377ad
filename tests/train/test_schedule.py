import itertools

import pytest
from torch import nn

from mtp.config.train import LRScheduleConfig
from mtp.train.budget import steps_within
from mtp.train.parameters import parameter_groups
from mtp.train.schedule import lr_at


@pytest.mark.parametrize("decay", ["cosine", "linear", "none"])
def test_the_rate_climbs_to_its_peak_in_the_warm_up_and_never_again(decay):
    config = LRScheduleConfig(warmup=0.1, decay=decay, final=0.1)
    rates = [lr_at(config, 1.0, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(1.0 if decay == "none" else 0.1)


def test_the_cosine_is_half_way_down_in_the_middle():
    config = LRScheduleConfig(warmup=0.0, decay="cosine", final=0.0)
    assert lr_at(config, 2.0, 49, 100) == pytest.approx(1.0)


def test_a_training_of_one_step_has_a_rate():
    assert lr_at(LRScheduleConfig(), 1.0, 0, 1) > 0


def test_matrices_decay_and_norms_and_biases_do_not():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3, bias=False))
    module[2].weight.requires_grad_(False)
    decayed, rest = parameter_groups(module, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert decayed["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in rest["params"]] == [(4,), (4,), (4,)]
    assert rest["weight_decay"] == 0.0


def test_a_shared_weight_stands_in_one_group_once():
    module = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    module[1].weight = module[0].weight
    groups = parameter_groups(module, 0.1)
    assert [len(group["params"]) for group in groups] == [1]


def test_a_budget_leaves_room_for_what_is_not_a_step():
    assert steps_within(1.0, 0.5) < 120
    assert steps_within(1.0, 0.5) > 100
    assert steps_within(0.01, 100.0) == 1
