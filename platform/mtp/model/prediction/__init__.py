"""The kinds of prediction modules. A new kind is one file here, one line below, and its name in the configuration."""

from mtp.model.prediction.base import PredictionModules, TrainingPass
from mtp.model.prediction.independent import IndependentModules
from mtp.model.prediction.none import NoModules
from mtp.model.prediction.parallel import ParallelModules
from mtp.model.prediction.sequential import SequentialModules

PREDICTION_MODULES: dict[str, type[PredictionModules]] = {
    "sequential": SequentialModules,
    "parallel": ParallelModules,
    "independent": IndependentModules,
    "none": NoModules,
}

__all__ = ["PREDICTION_MODULES", "PredictionModules", "TrainingPass"]
