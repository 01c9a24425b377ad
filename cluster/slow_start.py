"""Ray gives each node, the head or another, a fixed half minute to start in, which a busy machine may not make."""

from collections.abc import Callable
from typing import TypeVar

import tenacity

from mtp.errors import MTPError

ATTEMPTS = 3
_SIGN = "timed out during startup"

Started = TypeVar("Started")


class SlowStartError(MTPError):
    """A node has not made it."""


def start_error(sentence: str, log: str) -> MTPError:
    """The error of a node that did not start: SlowStartError if Ray gave up waiting, by what `log` says."""
    return SlowStartError(sentence) if _SIGN in log else MTPError(sentence)


def patiently(start: Callable[[], Started], on_progress: Callable[[str], None]) -> Started:
    """What `start` returns, started again, at most ATTEMPTS times in all, while Ray has given up waiting.

    Raises:
        MTPError: the last attempt's.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(SlowStartError),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        before_sleep=lambda _: on_progress("The machine is busy: starting once more"),
        reraise=True,
    )
    return retrying(start)
