"""A state folder of a test's own, for clusters other than the session's."""

import pytest


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MTP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
