"""Sends a prompt to the replica that has its beginning in the cache, as long as that one is not much busier.

A request router of Ray Serve. It remembers which replica last got each beginning (in blocks, as the engine caches
them); it is never told what a replica has evicted, so it may be wrong, which costs one prefill and nothing else.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

BLOCK = 16
LONGEST_BLOCKS = 64
REMEMBERED = 50_000
MUCH_BUSIER = 4
"""Requests that the replica with the prefix may have more than the idlest one."""


class PrefixMemory:
    """Which replica last got a beginning."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._replicas: OrderedDict[bytes, Any] = OrderedDict()

    def remember(self, prompt: Sequence[int], replica: Any) -> None:
        """`replica` computes `prompt` now."""
        for key in prefix_keys(prompt):
            self._replicas[key] = replica
            self._replicas.move_to_end(key)
        while len(self._replicas) > self._size:
            self._replicas.popitem(last=False)

    def longest(self, prompt: Sequence[int], alive: Any) -> Any | None:
        """The replica of `alive` with the longest beginning of `prompt`."""
        for key in reversed(prefix_keys(prompt)):
            replica = self._replicas.get(key)
            if replica in alive:
                return replica
        return None


def prefix_keys(prompt: Sequence[int]) -> list[bytes]:
    """A key for each whole block, which covers everything before it too."""
    keys: list[bytes] = []
    parent = b""
    for start in range(0, min(len(prompt), BLOCK * LONGEST_BLOCKS) - BLOCK + 1, BLOCK):
        block = np.array(prompt[start : start + BLOCK], dtype=np.int64).tobytes()
        parent = hashlib.blake2b(parent + block, digest_size=8).digest()
        keys.append(parent)
    return keys


class PrefixRouter(FIFOMixin, LocalityMixin, MultiplexMixin, RequestRouter):
    """The replica with the prefix first, then the idlest."""

    def initialize_state(self, **_: Any) -> None:
        """Called by Ray Serve."""
        self._memory = PrefixMemory()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas to ask, best first."""
        by_load = sorted(candidate_replicas, key=self._load)
        if not by_load:
            return []
        preferred = self._preferred(pending_request, by_load)
        if preferred is None:
            return [by_load[:2], by_load]
        return [[preferred], by_load]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Called by Ray Serve."""
        prompt = _prompt(pending_request)
        if prompt:
            self._memory.remember(prompt, replica_id)

    def _preferred(self, pending: PendingRequest | None, by_load: list[RunningReplica]) -> RunningReplica | None:
        prompt = _prompt(pending)
        if not prompt:
            return None
        known = {replica.replica_id: replica for replica in by_load}
        replica = known.get(self._memory.longest(prompt, known))
        if replica is None or self._load(replica) > self._load(by_load[0]) + MUCH_BUSIER:
            return None
        return replica

    def _load(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _prompt(pending: PendingRequest | None) -> Sequence[int]:
    if pending is None or not pending.args:
        return ()
    prompt: Sequence[int] = getattr(pending.args[0], "prompt", ())
    return prompt
