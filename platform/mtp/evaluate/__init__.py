"""Layer 4: what a model is worth, measured: held-out loss, agreement, true acceptance, figures."""

from mtp.evaluate.evaluation import evaluate
from mtp.evaluate.figures import acceptance_figure, agreement_figure, loss_figure
from mtp.evaluate.loss_memory import LossMemory, measure_loss_memory
from mtp.evaluate.objective_figures import importance_figure, schedule_figure
from mtp.evaluate.report import Decoding, DraftLength, EvaluationReport

__all__ = [
    "Decoding",
    "DraftLength",
    "EvaluationReport",
    "LossMemory",
    "acceptance_figure",
    "agreement_figure",
    "evaluate",
    "importance_figure",
    "loss_figure",
    "measure_loss_memory",
    "schedule_figure",
]
