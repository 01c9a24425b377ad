"""The one configuration of a project: every section, under the name of the component that takes it."""

from typing import Self

from pydantic import model_validator

from mtp.config.base import Section
from mtp.config.cluster import ClusterConfig
from mtp.config.compare import CompareConfig
from mtp.config.data import DataConfig
from mtp.config.evaluate import EvaluateConfig
from mtp.config.model import ModelConfig
from mtp.config.objective import ObjectiveConfig
from mtp.config.promote import PromoteConfig
from mtp.config.refresh import RefreshConfig
from mtp.config.serve import ServeConfig
from mtp.config.sweep import SweepConfig
from mtp.config.tracking import TrackingConfig
from mtp.config.train import TrainConfig


class Config(Section):
    """What a YAML file in `configs/` describes."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sweep: SweepConfig = SweepConfig()
    tracking: TrackingConfig = TrackingConfig()
    promote: PromoteConfig = PromoteConfig()
    refresh: RefreshConfig = RefreshConfig()
    compare: CompareConfig = CompareConfig()
    serve: ServeConfig = ServeConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.model.n_future > self.data.seq_len - 1:
            raise ValueError(
                f"model.prediction.n_future is {self.model.n_future}, but a row of data.seq_len {self.data.seq_len} "
                f"tokens has no target that far ahead; raise seq_len or lower n_future"
            )
        if self.data.seq_len > self.model.max_position_embeddings:
            raise ValueError(
                f"data.seq_len ({self.data.seq_len}) is larger than model.max_position_embeddings "
                f"({self.model.max_position_embeddings})"
            )
        if self.data.vocab_size != self.model.vocab_size:
            raise ValueError(
                f"data.vocab_size ({self.data.vocab_size}) and model.vocab_size ({self.model.vocab_size}) differ; "
                f"a model reads the tokens that its data was prepared with"
            )
        return self
