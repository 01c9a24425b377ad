import pytest

from cluster.slow_start import ATTEMPTS, patiently, start_error
from mtp.errors import MTPError

SLOW = "Exception: The current node timed out during startup. This could happen because"


class Node:
    """Does not start so many times, for the reason that its log gives."""

    def __init__(self, failures, log):
        self.failures, self.log, self.tries = failures, log, 0

    def start(self):
        self.tries += 1
        if self.tries <= self.failures:
            raise start_error(f"try {self.tries}", self.log)
        return "started"


def test_a_node_that_ray_gave_up_is_started_again():
    node, told = Node(ATTEMPTS - 1, SLOW), []
    assert patiently(node.start, told.append) == "started"
    assert len(told) == ATTEMPTS - 1


def test_the_last_of_its_errors_is_raised():
    with pytest.raises(MTPError, match=f"try {ATTEMPTS}"):
        patiently(Node(ATTEMPTS, SLOW).start, print)


def test_another_error_is_raised_at_once():
    node = Node(1, "address already in use")
    with pytest.raises(MTPError, match="try 1"):
        patiently(node.start, print)
    assert node.tries == 1
