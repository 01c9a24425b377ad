"""What an evaluation found: plain values that print, log and gate.

Knows the names under which metrics are logged; knows nothing of how they were measured.
"""

from pydantic import BaseModel


class DraftLength(BaseModel):
    """Greedy decoding of the held-out prompts with K drafts a step, against standard decoding in the same run."""

    num_draft_tokens: int
    """K."""
    acceptance: list[float]
    """Position k = 1..K: share of the steps that drafted it in which drafts 1..k were all accepted."""
    tokens_per_step: float
    """Emitted tokens over target passes."""
    predicted_speedup: float
    """(1 + sum of acceptance) / (1 + K c): what the draft cost c leaves, if verifying K + 1 tokens cost one pass."""
    measured_speedup: float
    """Tokens per second over standard decoding's."""


class Decoding(BaseModel):
    """True acceptance: drafts against the model's own greedy output, one prompt at a time."""

    prompts: int
    tokens: int
    """Tokens that standard decoding emitted over all prompts."""
    identical: int
    """Prompts whose output was the same, token for token, with every K (floating-point ties aside: all of them)."""
    standard_tokens_per_second: float
    draft_cost: float
    """c: seconds of one draft step over seconds of one target pass of standard decoding; 0 without modules."""
    lengths: list[DraftLength]
    """K = 1..n-1; empty for a model without prediction modules."""

    @property
    def acceptance(self) -> list[float]:
        """Acceptance per position with the most drafts a step."""
        return self.lengths[-1].acceptance if self.lengths else []

    @property
    def tokens_per_step(self) -> float:
        """With the most drafts a step; 1 for a model without modules."""
        return self.lengths[-1].tokens_per_step if self.lengths else 1.0


class EvaluationReport(BaseModel):
    """A model on held-out rows, and on its own continuations of held-out prompts."""

    model: str
    data: str
    rows: int
    tokens: int
    """Targets of horizon 1."""
    perplexity: float
    """exp of the mean loss of horizon 1, over tokens that have a predecessor in their document and row."""
    bits_per_byte: float
    """The same loss in bits, over the bytes of text that those tokens stand for."""
    loss: list[float]
    """Horizons 1..n, in nats a token."""
    top1: list[float]
    """Horizons 1..n: share of targets that are the most likely token."""
    agreement: list[float]
    """Horizons 2..n: share of targets where the horizon's most likely token is horizon 1's for the same slot."""
    predicted_tokens_per_step: float
    """From the agreements alone: 1 + how often horizons 2..k agree, over k. Compare `decoding.tokens_per_step`."""
    decoding: Decoding | None = None
    """None if no prompts were decoded."""

    @property
    def n_future(self) -> int:
        """The largest horizon."""
        return len(self.loss)

    def to_json(self) -> str:
        """The whole report, indented."""
        return self.model_dump_json(indent=2)

    def metrics(self) -> dict[str, float]:
        """Under the names that MLflow keeps: eval/ppl, eval/loss_h1.., eval/acceptance_p1.., eval/tokens_per_step."""
        named = {"eval/ppl": self.perplexity, "eval/bits_per_byte": self.bits_per_byte}
        named |= {f"eval/loss_h{k}": value for k, value in enumerate(self.loss, 1)}
        named |= {f"eval/top1_h{k}": value for k, value in enumerate(self.top1, 1)}
        named |= {f"eval/agreement_h{k}": value for k, value in enumerate(self.agreement, 2)}
        named["eval/predicted_tokens_per_step"] = self.predicted_tokens_per_step
        if self.decoding is not None:
            named |= {f"eval/acceptance_p{k}": value for k, value in enumerate(self.decoding.acceptance, 1)}
            named |= {
                "eval/tokens_per_step": self.decoding.tokens_per_step,
                "eval/draft_cost": self.decoding.draft_cost,
            }
        return named
