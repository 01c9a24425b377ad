import pytest

from mtp.cli import session
from mtp.errors import MTPError


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch):
    import ray

    def too_busy(**_):
        raise Exception("The current node timed out during startup. This could happen because some of the raylet ...")

    monkeypatch.setattr(session, "load_state", lambda: None)
    monkeypatch.setattr(ray, "init", too_busy)
    match = r"did not start .*\(The current node timed out during startup\); try again"
    with pytest.raises(MTPError, match=match), session.ray_session():
        pytest.fail("the block began")
