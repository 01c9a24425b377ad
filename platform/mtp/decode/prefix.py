"""Keys under which full blocks of the cache are shared between requests that begin alike.

Module k's entry at slot i was built with token i + k, so what a block holds depends on its own tokens, on all before
it, and on the `module_depth` tokens after it. The key covers them all: a hit gives the very same latents, of the
backbone and of the modules, as computing them would.
"""

import hashlib

import numpy as np

from mtp.decode.sequence import Sequence


def shareable_blocks(sequence: Sequence, block_size: int) -> int:
    """Blocks whose key is known by now; the last token stays out, since a request needs its hidden state."""
    lookahead = max(sequence.module_depth, 1)
    return max(0, (len(sequence.tokens) - lookahead) // block_size)


def block_key(sequence: Sequence, index: int, block_size: int) -> bytes:
    """The key of block `index`; keys of earlier blocks are made on the way and kept."""
    keys = sequence.block_keys
    while len(keys) <= index:
        start = len(keys) * block_size
        covered = sequence.tokens[start : start + block_size + sequence.module_depth]
        parent = keys[-1] if keys else sequence.module_depth.to_bytes(4, "little")
        keys.append(hashlib.blake2b(parent + np.array(covered, dtype=np.int64).tobytes(), digest_size=16).digest())
    return keys[index]
