"""The files for `ray up`, against Ray's own schema and its offline preparation; no cloud is asked."""

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "cluster" / "launcher"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_accepts_the_file(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    assert config["head_node_type"] in config["available_node_types"]
    assert sum(one.get("max_workers", 0) for one in config["available_node_types"].values()) >= config["max_workers"]


def test_ray_refuses_a_misspelt_key():
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load(FILES[0].read_text())
    with pytest.raises(Exception, match="max_worker_count"):
        validate_config({**config, "max_worker_count": 3})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_asks_for_its_token_and_no_port_is_open_to_the_world(path):
    config = yaml.safe_load(path.read_text())
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = config[commands][-1]
        assert "RAY_AUTH_MODE=token" in start
        (token,) = re.findall(r"RAY_AUTH_TOKEN_PATH=(\S+)", start)
        assert token in config["file_mounts"]
        assert f"chmod 600 {token}" in config["setup_commands"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in path.read_text()
