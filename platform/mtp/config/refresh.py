"""Training the prediction modules of a finished model anew."""

from pydantic import PositiveInt

from mtp.config.base import Section
from mtp.config.objective import Fraction


class RefreshConfig(Section):
    """`mtp refresh`: the modules alone are trained, on `data`; batch, optimizer and schedule are those of `train`."""

    model: str | None = None
    """Model URI; the command line's argument."""
    steps: PositiveInt = 200
    distillation: Fraction = 1.0
    """Share of the modules' loss that asks for what the model itself would say, not for the text's token; see
    `objective.distillation`, in whose place it stands."""
    continuations: Fraction = 0.5
    """Share of the rows of which only the first quarter is the data's, and the rest the model's own, greedily: drafts
    are made for such text. Computing it takes about as long as a step that learns from it."""
    alias: str = "champion"
    """Moves to the refreshed version if its drafts are accepted more often on held-out text."""
