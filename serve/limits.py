"""How much each API key may use: requests and tokens a minute, by token buckets. Knows keys by name, and a clock.

A minute's worth can be used at once; from then on it comes back evenly. Tokens are charged when they are known: the
prompt's before the request starts, the output's as it ends, so a request may overdraw, and the next ones wait for it.
"""

import time
from collections.abc import Callable

from serve.api_keys import APIKey
from serve.errors import APIError


class Bucket:
    """A budget that refills at `per_minute`."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` (or a full bucket, if that is less) is there; 0 if it is."""
        now = self._clock()
        self._level = min(self._level + (now - self._at) * self.per_minute / 60, float(self.per_minute))
        self._at = now
        missing = min(amount, self.per_minute) - self._level
        return max(0.0, missing * 60 / self.per_minute)

    def charge(self, amount: float) -> None:
        """Take `amount`, below zero if need be."""
        self.wait_s(0)
        self._level -= amount


class KeyLimits:
    """The budgets of all keys, in this gateway."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str, int], Bucket] = {}

    def admit(self, key: APIKey | None, prompt_tokens: int) -> None:
        """Charge one request with its prompt.

        Raises:
            APIError: 429 with the seconds to wait; nothing was charged.
        """
        if key is None:
            return
        wanted = [
            (self._bucket(key, "requests", key.requests_per_minute), 1, "requests"),
            (self._bucket(key, "tokens", key.tokens_per_minute), prompt_tokens, "tokens"),
        ]
        for bucket, amount, what in wanted:
            wait = bucket.wait_s(amount) if bucket is not None else 0.0
            if bucket is not None and wait > 0:
                raise APIError(
                    429,
                    f"the key {key.name!r} may use {bucket.per_minute} {what} a minute; try again in {wait:.0f} s",
                    code="rate_limit_exceeded",
                    retry_after=max(1, round(wait + 0.5)),
                )
        for bucket, amount, _ in wanted:
            if bucket is not None:
                bucket.charge(amount)

    def charge_output(self, key: APIKey | None, tokens: int) -> None:
        """Charge what a request has generated."""
        bucket = self._bucket(key, "tokens", key.tokens_per_minute) if key is not None else None
        if bucket is not None:
            bucket.charge(tokens)

    def _bucket(self, key: APIKey, what: str, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        return self._buckets.setdefault((key.sha256, what, per_minute), Bucket(per_minute, self._clock))
