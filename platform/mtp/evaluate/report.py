"""What an evaluation found: plain values that print, log and gate.

Knows the names under which metrics are logged; knows nothing of how they were measured.
"""

import re

from pydantic import BaseModel

from mtp.evaluate.tasks import TaskScores


def _metric_name(name: str) -> str:
    """A domain's name as MLflow takes it in the name of a metric."""
    allowed = re.sub(r"[^\w.\- ]", "_", name)
    return allowed if allowed.strip(".") else "_" * len(allowed)


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


class SampledDecoding(BaseModel):
    """The same with the most drafts a step and sampling, by the exact acceptance rule."""

    temperature: float
    tokens: int
    acceptance: list[float]
    tokens_per_step: float


class Decoding(BaseModel):
    """True acceptance: drafts against the model's own output, greedy and sampled, one prompt at a time."""

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
    sampled: SampledDecoding | None = None
    """None for a model without prediction modules."""

    @property
    def acceptance(self) -> list[float]:
        """Acceptance per position with the most drafts a step."""
        return self.lengths[-1].acceptance if self.lengths else []

    @property
    def tokens_per_step(self) -> float:
        """With the most drafts a step; 1 for a model without modules."""
        return self.lengths[-1].tokens_per_step if self.lengths else 1.0


class ReliabilityBin(BaseModel):
    """Targets whose most likely token got a probability in one tenth of [0, 1]."""

    count: int
    confidence: float
    """Mean of those probabilities."""
    correct: float
    """How often that token was the target."""


class DomainReport(BaseModel):
    """One domain: a prepared data set of its own, or the documents of one folder or column value in `data`."""

    data: str
    tokens: int
    perplexity: float
    bits_per_byte: float
    agreement: list[float]
    acceptance: list[float]
    """Greedy, with the most drafts a step."""
    tokens_per_step: float


class EvaluationReport(BaseModel):
    """A model on held-out documents, and on its own continuations of held-out prompts."""

    model: str
    data: str
    rows: int
    tokens: int
    """Targets of horizon 1."""
    window: int
    """Tokens that the model reads at once."""
    stride: int
    """Tokens by which windows of a long document advance: each token sees at least window - stride before it."""
    perplexity: float
    """exp of the mean loss of horizon 1, over every token of the documents but their first."""
    bits_per_byte: float
    """The same loss in bits, over the bytes of text that those tokens stand for."""
    loss: list[float]
    """Horizons 1..n, in nats a token."""
    top1: list[float]
    """Horizons 1..n: share of targets that are the most likely token."""
    agreement: list[float]
    """Horizons 2..n: share of targets where the horizon's most likely token is horizon 1's for the same slot."""
    ece: list[float]
    """Horizons 1..n: expected calibration error, the mean gap between confidence and how often it was right."""
    reliability: list[list[ReliabilityBin]]
    """Horizons 1..n: ten bins each."""
    predicted_tokens_per_step: float
    """From the agreements alone: 1 + how often horizons 2..k agree, over k. Compare `decoding.tokens_per_step`."""
    decoding: Decoding | None = None
    """None if no prompts were decoded."""
    domains: dict[str, DomainReport] = {}
    """By name; empty unless domains were asked for."""
    tasks: list[TaskScores] = []
    """Empty unless tasks were asked for."""

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
        named |= {f"eval/ece_h{k}": value for k, value in enumerate(self.ece, 1)}
        named["eval/predicted_tokens_per_step"] = self.predicted_tokens_per_step
        if self.decoding is not None:
            named |= {f"eval/acceptance_p{k}": value for k, value in enumerate(self.decoding.acceptance, 1)}
            named |= {
                "eval/tokens_per_step": self.decoding.tokens_per_step,
                "eval/draft_cost": self.decoding.draft_cost,
            }
            if self.decoding.sampled is not None:
                named |= {f"eval/sampled_acceptance_p{k}": a for k, a in enumerate(self.decoding.sampled.acceptance, 1)}
                named["eval/sampled_tokens_per_step"] = self.decoding.sampled.tokens_per_step
        for name, domain in self.domains.items():
            key = f"eval/{_metric_name(name)}"
            named[f"{key}/ppl"] = domain.perplexity
            named[f"{key}/tokens_per_step"] = domain.tokens_per_step
            named |= {f"{key}/acceptance_p{k}": value for k, value in enumerate(domain.acceptance, 1)}
        for task in self.tasks:
            named |= {f"eval/{task.task}/{metric}": value for metric, value in task.scores.items()}
        return named

    def domain_table(self) -> tuple[list[str], list[list[float | int | str | None]]]:
        """Column names and one row a domain."""
        positions = max((len(domain.acceptance) for domain in self.domains.values()), default=0)
        columns = ["domain", "tokens", "perplexity", "bits/byte"]
        columns += [f"acceptance {k}" for k in range(1, positions + 1)] + ["tokens/step"]
        rows: list[list[float | int | str | None]] = []
        for name, domain in self.domains.items():
            rates = [*domain.acceptance, *[None] * (positions - len(domain.acceptance))]
            rows.append([name, domain.tokens, domain.perplexity, domain.bits_per_byte, *rates, domain.tokens_per_step])
        return columns, rows

    def table(self) -> tuple[list[str], list[list[float | int | str | None]]]:
        """Column names and one row a horizon, for the registry's table view and the terminal."""
        columns = ["horizon", "loss", "top-1", "agreement", "ECE", "acceptance", "tokens/step", "predicted", "measured"]
        lengths = self.decoding.lengths if self.decoding else []
        rows: list[list[float | int | str | None]] = []
        for k in range(1, self.n_future + 1):
            row: list[float | int | str | None] = [k, self.loss[k - 1], self.top1[k - 1]]
            row += [self.agreement[k - 2] if k > 1 else None, self.ece[k - 1]]
            if 2 <= k <= len(lengths) + 1:
                length = lengths[k - 2]
                row += [length.acceptance[-1], length.tokens_per_step]
                row += [length.predicted_speedup, length.measured_speedup]
            else:
                row += [None] * 4
            rows.append(row)
        return columns, rows
