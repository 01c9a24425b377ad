"""Layer 4: what a model is worth, measured: held-out loss, agreement, true acceptance, figures."""

from mtp.evaluate.evaluation import evaluate, report_of
from mtp.evaluate.figures import acceptance_figure, agreement_figure, domains_figure, loss_figure, reliability_figure
from mtp.evaluate.loss_memory import LossMemory, measure_loss_memory
from mtp.evaluate.objective_figures import importance_figure, schedule_figure
from mtp.evaluate.parts import EvaluationPlan, EvaluationSettings, Part, PartSpec, measure_part, plan_evaluation
from mtp.evaluate.report import Decoding, DomainReport, DraftLength, EvaluationReport, SampledDecoding
from mtp.evaluate.tasks import TaskScores, score_task, task_name

__all__ = [
    "Decoding",
    "DomainReport",
    "DraftLength",
    "EvaluationPlan",
    "EvaluationReport",
    "EvaluationSettings",
    "LossMemory",
    "Part",
    "PartSpec",
    "SampledDecoding",
    "TaskScores",
    "acceptance_figure",
    "agreement_figure",
    "domains_figure",
    "evaluate",
    "importance_figure",
    "loss_figure",
    "measure_loss_memory",
    "measure_part",
    "plan_evaluation",
    "reliability_figure",
    "report_of",
    "schedule_figure",
    "score_task",
    "task_name",
]
