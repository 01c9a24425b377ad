"""Layer 4: approaches, decoders and settings side by side under one token budget and one data order."""

from mtp.compare.plan import TrainSpec, plan_trainings
from mtp.compare.report import CompareReport, Table
from mtp.compare.tables import make_tables
from mtp.compare.training import TrainedModel, train_variant

__all__ = ["CompareReport", "Table", "TrainSpec", "TrainedModel", "make_tables", "plan_trainings", "train_variant"]
