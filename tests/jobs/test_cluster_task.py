import os

import pytest

from jobs.cluster_task import on_cluster
from mtp.errors import UsageError


def where(word):
    return word, os.getpid()


def refuse():
    raise UsageError("the model has no prompts; give it some")


def test_a_function_runs_in_another_process_of_the_cluster(ray_cluster):
    word, process = on_cluster(0.5, 0, where, "there")
    assert word == "there" and process != os.getpid()


def test_what_it_raises_is_the_users_error_itself(ray_cluster):
    with pytest.raises(UsageError, match=r"^the model has no prompts; give it some$"):
        on_cluster(0.5, 0, refuse)
