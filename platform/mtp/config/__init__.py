"""Layer 0: the one configuration schema, from YAML and overrides to typed sections. No torch, no ray."""

from mtp.config.cluster import ClusterConfig
from mtp.config.data import DataConfig
from mtp.config.evaluate import EvaluateConfig
from mtp.config.home import home
from mtp.config.load import build_config, dump_config, load_config
from mtp.config.model import ModelConfig, PredictionConfig
from mtp.config.objective import ObjectiveConfig
from mtp.config.presets import preset_path
from mtp.config.root import Config
from mtp.config.serve import ServeConfig
from mtp.config.sweep import SweepConfig
from mtp.config.tracking import TrackingConfig
from mtp.config.train import TrainConfig

__all__ = [
    "ClusterConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PredictionConfig",
    "ServeConfig",
    "SweepConfig",
    "TrackingConfig",
    "TrainConfig",
    "build_config",
    "dump_config",
    "home",
    "load_config",
    "preset_path",
]
