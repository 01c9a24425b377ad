"""Peers of `mtp bench decode`: what cannot run is named, what differs is told."""

import sys
from pathlib import Path

import pytest

from mtp.cli.bench.decode_command import _interpreters
from mtp.cli.bench.peers.contestants import agreement, started
from mtp.cli.bench.peers.environments import needed
from mtp.errors import UsageError

JOB = {"batch": 1, "max_len": 64, "threads": 1, "latent": [512, 64]}


def test_an_interpreter_without_the_peer_makes_an_entry_that_says_so(tmp_path):
    named = {peer: Path(sys.executable) for peer in ("llamacpp", "vllm")}
    with started("small", tmp_path, ["llamacpp", "vllm"], named, JOB, lambda name: None) as peers:
        assert peers.running == []
        reasons = {entry["name"]: entry["detail"]["missing"] for entry in peers.missing}
    assert set(reasons) == {"small llamacpp", "small llamacpp_mtp", "small vllm", "small vllm_mtp"}
    assert "No module named 'xllamacpp'" in reasons["small llamacpp"]
    assert "No module named 'vllm'" in reasons["small vllm"]


def test_disagreements_are_counted_and_placed():
    assert agreement([[1, 2, 3]], [[1, 2, 3]]) == "1 of 1"
    assert (
        agreement([[1, 9, 3], [4, 5], [7]], [[1, 2, 3], [4, 5], [7, 8]]) == "1 of 3; others differ from token 1, 1 on"
    )


def test_a_cpu_build_is_installed_without_what_a_text_model_never_imports():
    wishes = ["torch==2.13.0+cpu; platform_machine == 'x86_64'", "torchvision", "scipy; extra == 'bench'", "numpy>=1"]
    assert needed(wishes) == ["torch==2.13.0; platform_machine == 'x86_64'", "numpy>=1"]


@pytest.mark.parametrize("option", ["vllm", "sglang=/bin/sh", "vllm=/no/such/python"])
def test_an_interpreter_that_is_none_is_refused(option):
    with pytest.raises(UsageError, match="is not PEER=PATH of an interpreter"):
        _interpreters([option])
