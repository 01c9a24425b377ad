"""A counter that can be seen before anything was counted."""

from ray.util import metrics


class Counter(metrics.Counter):
    """Ray's, which may also be told of nothing: a series that begins at 0.

    Without it a series begins with its first event, which no rate then shows; and where nothing is ever accepted,
    found or lost, a panel is empty and an alert that compares cannot ring.
    """

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Count `value` more, 0 to begin with (Ray's own refuses it).

        Raises:
            ValueError: it is negative.
        """
        if value < 0:
            raise ValueError(f"a counter cannot go back, and {self._name} was told {value}")
        self._record(value, tags=tags)
