"""The multi-token-prediction loss: weights of the horizons over time, token importance, reduction."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from mtp.config.base import Section

PerHorizon = NonNegativeFloat | tuple[NonNegativeFloat, ...]
"""One value for all horizons, or one each for horizons 2, 3, ... (those beyond n_future are not read, so that one
configuration serves a sweep over n_future)."""


Fraction = Annotated[float, Field(ge=0, le=1)]
PerHorizonFraction = Fraction | tuple[Fraction, ...]


class ConstantSchedule(Section):
    """lambda stays at its initial value."""

    kind: Literal["constant"] = "constant"


class StepSchedule(Section):
    """lambda is multiplied by `factor` once `at` (a fraction of training) has passed.

    DeepSeek-V3's 0.3 then 0.1 is `initial: 0.3` with `factor: 0.3333`.
    """

    kind: Literal["step"] = "step"
    at: PerHorizonFraction = 0.67
    factor: PerHorizon = 1 / 3


class DecaySchedule(Section):
    """lambda is multiplied by (1 - t/T)^alpha."""

    kind: Literal["decay"] = "decay"
    alpha: PerHorizon = 1.0


class CurriculumSchedule(Section):
    """Horizon k joins (0 before, 1 after) when `starts[k-2]` has passed, in the objective's unit."""

    kind: Literal["curriculum"] = "curriculum"
    starts: tuple[NonNegativeInt, ...] = (10_000, 20_000, 30_000)


LambdaSchedule = Annotated[
    ConstantSchedule | StepSchedule | DecaySchedule | CurriculumSchedule, Field(discriminator="kind")
]


class LambdaConfig(Section):
    """lambda_k(t) for k >= 2: initial values times every schedule in the list (lambda_1 is always 1)."""

    initial: PerHorizon = 0.3
    unit: Literal["steps", "tokens"] = "steps"
    """What `starts` and `span` count."""
    span: PositiveInt | None = None
    """The T of step and decay; unset: the whole training."""
    schedules: tuple[LambdaSchedule, ...] = ()


class ImportanceConfig(Section):
    """Token importance w(x), normalised to mean 1 over the corpus."""

    kind: Literal["uniform", "inverse_frequency", "content_words"] = "uniform"
    clip: float = Field(default=5.0, gt=1)
    """inverse_frequency: largest ratio of a weight to the mean, and of the mean to a weight."""
    function_word_weight: float = Field(default=0.5, gt=0, le=1)
    """content_words: weight of function words relative to the others."""
    function_words: tuple[str, ...] | None = None
    """content_words: the words to weigh down; unset: English articles, prepositions, pronouns, auxiliaries ..."""


class ObjectiveConfig(Section):
    """How the per-horizon losses become one (DESIGN section 4)."""

    lambdas: LambdaConfig = LambdaConfig()
    importance: ImportanceConfig = ImportanceConfig()
    reduction: Literal["mean", "paper"] = "mean"
    """mean: over the valid positions of the global batch; paper: over T (DeepSeek-V3 report, eq. 24)."""
    chunk_size: PositiveInt = 1024
    """Positions whose logits are held at once."""
    balance_alpha: NonNegativeFloat = 0.0
    """Weight of the sequence-wise balance loss of the experts."""
    bias_update_speed: NonNegativeFloat = 0.001
    """gamma of the expert-bias update (DeepSeek-V3 report, section 2.1.2)."""
    distillation: Fraction = 0.0
    """Share of the loss of horizons beyond the first that asks for what horizon 1 predicts there, not for the text's
    token: more drafts stand, but the backbone learns less from it (`mtp refresh` distills on a finished one)."""
    detach_backbone: bool = False
    """Train the prediction modules alone: the backbone, embedding and head get no gradient."""
