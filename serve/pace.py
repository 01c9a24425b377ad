"""When the streams of a replica send what has come: together, and not too often.

A message between processes costs about a millisecond of the machine, more than a small model's token, and every wake-up
of another thread or process may take a core from a step. So all streams send at the same moments, and at most so many
messages a second. Knows nothing of requests or streams but how many there are.
"""

import time
from collections.abc import Callable

MESSAGES_PER_SECOND = 100
"""That all streams of a replica send together, where none waits longer than LONGEST_INTERVAL_S."""
LONGEST_INTERVAL_S = 0.1


def interval(streams: int) -> float:
    """Seconds between two messages of one stream, when so many are open."""
    return min(streams / MESSAGES_PER_SECOND, LONGEST_INTERVAL_S)


class Pace:
    """Asked after every step of the engine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked = self._due = clock()

    def is_due(self, streams: int) -> bool:
        """Whether to send now: it is time, or will be before a step as long as this one has ended."""
        now = self._clock()
        step, self._asked = now - self._asked, now
        if now + step < self._due:
            return False
        self._due = now + interval(streams)
        return True
