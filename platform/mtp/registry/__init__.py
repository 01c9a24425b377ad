"""Layer 3: the memory of runs and models. The one place that imports MLflow, and only when it is first used."""

from mtp.registry.artifacts import log_figures, log_json, log_table, log_text
from mtp.registry.card import ModelCard
from mtp.registry.connection import tracking_uri
from mtp.registry.fetch import fetch_model, resolve_version
from mtp.registry.lineage import Lineage
from mtp.registry.metrics import MetricLogger, send_spooled
from mtp.registry.models import (
    ModelVersion,
    record_figures,
    register_model,
    registered_models,
    set_alias,
    versions,
)
from mtp.registry.production import Production, drift, production_of, record_production
from mtp.registry.promote import Gate, Promotion, promote, promotions, record_gates, recorded_gates, roll_back
from mtp.registry.runs import DatasetRecord, ending_run, finish_run, metric_history, start_run

__all__ = [
    "DatasetRecord",
    "Gate",
    "Lineage",
    "MetricLogger",
    "ModelCard",
    "ModelVersion",
    "Production",
    "Promotion",
    "drift",
    "ending_run",
    "fetch_model",
    "finish_run",
    "log_figures",
    "log_json",
    "log_table",
    "log_text",
    "metric_history",
    "production_of",
    "promote",
    "promotions",
    "record_figures",
    "record_gates",
    "record_production",
    "recorded_gates",
    "register_model",
    "registered_models",
    "resolve_version",
    "roll_back",
    "send_spooled",
    "set_alias",
    "start_run",
    "tracking_uri",
    "versions",
]
