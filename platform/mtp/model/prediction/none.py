"""No prediction modules: a standard decoder, horizon 1 only."""

from torch import Tensor

from mtp.model.decoding import PassInput
from mtp.model.prediction.base import PredictionModules, TrainingPass


class NoModules(PredictionModules):
    """Nothing beyond the backbone."""

    def forward(self, training_pass: TrainingPass) -> list[Tensor]:
        """No states."""
        return []

    def draft_hiddens(self, hidden: Tensor, pass_input: PassInput) -> list[Tensor]:
        """No states."""
        return []
