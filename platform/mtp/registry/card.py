"""What is worth knowing of a model, beside its files: the version's description, and the tags that tables read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from mtp.config import ModelConfig
from mtp.registry.lineage import Lineage


@dataclass(frozen=True)
class ModelCard:
    """Figures of one trained model; what was not measured is None or empty and does not show."""

    model: ModelConfig | None = None
    parameters: int | None = None
    tokens: int | None = None
    """Trained on."""
    perplexity: float | None = None
    """On held-out text."""
    losses: tuple[float, ...] = ()
    """Of horizons 1..n on held-out text, in nats."""
    agreement: tuple[float, ...] = ()
    """Of horizons 2..n: how often the draft is the model's own choice."""
    acceptance: tuple[float, ...] = ()
    """Per draft position 1..: of the drafts verified there, the share accepted."""
    tokens_per_step: float | None = None
    data_fingerprint: str | None = None
    parent: str | None = None
    """`models:/NAME/VERSION` that the model was resumed or refreshed from."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further rows for the card's table, such as what was imported."""

    def tags(self) -> dict[str, str]:
        """Those figures that `versions` reads back."""
        values = {
            "perplexity": self.perplexity,
            "agreement": list(self.agreement) or None,
            "acceptance": list(self.acceptance) or None,
            "tokens_per_step": self.tokens_per_step,
            "data_fingerprint": self.data_fingerprint,
        }
        return {name: json.dumps(value) for name, value in values.items() if value is not None}

    def markdown(self, name: str, lineage: Lineage, experiment_id: str = "", figures: Sequence[str] = ()) -> str:
        """The description that MLflow's user interface shows.

        Args:
            name: of the registered model.
            lineage: where the version comes from.
            experiment_id: of its run, for links.
            figures: paths of PNG files among the run's artifacts.
        """
        rows = [
            ("perplexity on held-out text", _number(self.perplexity)),
            ("loss of horizons 1..n (nats)", _numbers(self.losses)),
            ("agreement of horizons 2..n", _percents(self.agreement)),
            ("acceptance of drafts 1..", _percents(self.acceptance)),
            ("tokens per step", _number(self.tokens_per_step)),
            ("parameters", f"{self.parameters:,}" if self.parameters is not None else None),
            ("trained on tokens", f"{self.tokens:,}" if self.tokens is not None else None),
            ("data fingerprint", self.data_fingerprint and f"`{self.data_fingerprint}`"),
            *lineage.rows(),
            *((key, str(value)) for key, value in self.extra.items()),
        ]
        table = "\n".join(f"| {label} | {value} |" for label, value in rows if value is not None)
        parts = [f"# {name}", self._architecture(), f"| figure | value |\n|---|---|\n{table}" if table else ""]
        if lineage.run_id:
            page = f"#/experiments/{experiment_id}/runs/{lineage.run_id}"
            parts.append(f"[Configuration, metrics and figures of its run]({page})")
            parts += [_picture(figure, lineage.run_id) for figure in figures]
        return "\n\n".join(part for part in parts if part)

    def _architecture(self) -> str:
        if self.model is None:
            return ""
        model, prediction = self.model, self.model.prediction
        experts = f", {model.n_routed_experts} routed experts" if model.n_routed_experts else ""
        return (
            f"DeepSeek-V3 architecture: {model.num_hidden_layers} layers, hidden size {model.hidden_size}{experts}, "
            f"vocabulary {model.vocab_size}. Prediction modules: {prediction.kind}, {prediction.n_future} horizons."
        )


def _picture(path: str, run_id: str) -> str:
    """A figure as the MLflow server gives it out."""
    return f"![{path}](get-artifact?path={quote(path, safe='')}&run_uuid={run_id})"


def _number(value: float | None) -> str | None:
    return f"{value:.4g}" if value is not None else None


def _numbers(values: tuple[float, ...]) -> str | None:
    return ", ".join(f"{value:.4g}" for value in values) or None


def _percents(values: tuple[float, ...]) -> str | None:
    return ", ".join(f"{value:.1%}" for value in values) or None
