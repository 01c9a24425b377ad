"""What an answer says about its cost: OpenAI's usage, our `speculation` beside it, and vLLM's metrics object."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from mtp.decode import DecodeStats


def usage(prompt_tokens: int, completion_tokens: int, stats: Iterable[DecodeStats]) -> dict[str, Any]:
    """OpenAI's three counts, and `speculation`: steps, tokens a step, and drafts accepted at each position."""
    total = added(stats)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "speculation": {
            "steps": total.target_passes,
            "tokens_per_step": round(total.tokens_per_step, 4),
            "accepted_per_position": total.accepted_per_position,
            "drafted_per_position": total.drafted_per_position,
        },
    }


def speculative_decoding(stats: Iterable[DecodeStats]) -> dict[str, Any] | None:
    """vLLM's `metrics.speculative_decoding`; None if nothing was drafted.

    `acceptance_histogram[j]` counts the steps with drafts of which exactly j were accepted.
    """
    total = added(stats)
    drafted, accepted = total.drafted_per_position, total.accepted_per_position
    if not drafted:
        return None
    steps, good = drafted[0], sum(accepted)
    at_least = [steps, *accepted, 0]
    return {
        "mean_acceptance_length": 1 + good / steps,
        "draft_acceptance_rate": good / sum(drafted),
        "acceptance_histogram": [more - fewer for more, fewer in pairwise(at_least)],
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": good,
        "num_draft_tokens": sum(drafted),
        "num_spec_tokens": len(drafted),
    }


def added(stats: Iterable[DecodeStats]) -> DecodeStats:
    """The sum of several requests' statistics."""
    total = DecodeStats()
    for one in stats:
        total.add(one)
    return total
