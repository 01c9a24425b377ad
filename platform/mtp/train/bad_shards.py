"""What all ranks do together about shards that one of them could not read, when `data.on_bad_shard` is `skip`.

A rank meets a bad shard in its own rows of a batch; those rows are padding already. Before the step runs, every rank
hears of it, leaves the shard's rows out of all later batches, and remembers it in the state that checkpoints keep: so
all ranks, and a run that is resumed, skip the same rows. Knows batches and names; knows nothing of reading.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from mtp.data.stream.row_batch import RowBatch
from mtp.data.stream.row_stream import RowStream
from mtp.errors import MTPError
from mtp.train.collective import gathered, on_any_rank


def agreeing_on_bad_shards(
    stream: RowStream, known: tuple[str, ...], limit: int, tell: Callable[[str], None], device: torch.device
) -> Iterator[RowBatch]:
    """The stream's batches; every rank takes one at the same steps.

    Args:
        known: URLs of the shards that are left out already.
        limit: how many may be left out in all.
        tell: takes a sentence about each shard when it is first left out.

    Raises:
        MTPError: more than `limit` shards are bad; it names the last.
    """
    left_out = set(known)
    for batch in stream:
        news = {shard: why for shard, why in batch.bad_shards.items() if shard not in left_out}
        if on_any_rank(bool(news), device):
            found = {shard: why for of_rank in gathered(news) for shard, why in of_rank.items()}
            for shard, why in sorted(found.items()):
                left_out.add(shard)
                tell(f"bad shard {len(left_out)} of at most {limit}: {why}; its rows are left out from here on")
                if len(left_out) > limit:
                    raise MTPError(f"more than {limit} shards are bad (data.max_bad_shards); the last: {why}")
            stream.leave_out(found)
        yield replace(batch, left_out=tuple(sorted(left_out)))
