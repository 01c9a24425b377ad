"""What a quickstart's model must pass to become champion. Small checks of the way itself, not of quality."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtp.evaluate import EvaluationReport
    from mtp.registry import Gate


def quickstart_gates(evaluation: "EvaluationReport", vocab_size: int) -> Mapping[str, "Gate"]:
    """Learned: better than guessing. Exact: MTP drafts change no token of greedy decoding.

    That the registry returns the very files that were trained is checked by `promote` itself.
    """
    from mtp.registry import Gate

    learned = evaluation.perplexity < vocab_size
    gates = {"learned": Gate(learned, f"perplexity {evaluation.perplexity:.2f}, guessing {vocab_size}")}
    decoding = evaluation.decoding
    if decoding is not None:
        detail = f"{decoding.identical} of {decoding.prompts} prompts identical to standard decoding"
        gates["exact"] = Gate(decoding.identical == decoding.prompts, detail)
    return gates
