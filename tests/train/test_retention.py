import pytest

from mtp.config.train import CheckpointConfig
from mtp.train.manifest import Manifest
from mtp.train.retention import HELD_OUT_LOSS, staying_names
from tests.train.test_manifest import STATE


def made(**losses):
    """Checkpoints newest first, as {name: manifest}; None: unfinished, nan: not measured."""
    return {
        name: loss if loss is None else Manifest(state=STATE, model={}, metrics=measured(loss), files={})
        for name, loss in losses.items()
    }


def measured(loss):
    return {} if loss != loss else {HELD_OUT_LOSS: loss}


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "keep", "best", "staying"),
    [
        ({"d": 4.0, "c": 3.0, "b": 1.0, "a": 2.0}, 2, True, "dcb"),
        ({"d": 4.0, "c": 3.0, "b": 1.0, "a": 2.0}, 2, False, "dc"),
        ({"d": 0.5, "c": 3.0, "b": 1.0}, 1, True, "d"),
        ({"d": NAN, "c": NAN, "b": NAN}, 1, True, "d"),
        ({"d": None, "c": 3.0, "b": 1.0}, 1, True, "cb"),
        ({"c": 3.0}, 5, True, "c"),
    ],
)
def test_the_newest_whole_ones_stay_and_the_best(losses, keep, best, staying):
    assert staying_names(made(**losses), CheckpointConfig(keep=keep, keep_best=best)) == set(staying)
