import pytest
import torch

from tests.train.gloo import on_ranks
from tests.train.small import Training


def frozen_backbone(stage):
    training = Training(2, stage, objective={"detach_backbone": True})
    before = training.weights()
    training.steps(range(2))
    after = training.weights()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("stage", [1, 3])
def test_a_detached_backbone_is_not_even_decayed(stage):
    changed = on_ranks(2, frozen_backbone, stage)[0]
    assert changed
    assert all(name.startswith("model.prediction.") for name in changed)
