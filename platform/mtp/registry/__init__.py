"""Layer 3: the memory of runs and models. The one place that imports MLflow, and only when it is first used."""

from mtp.registry.artifacts import log_figures, log_json, log_table
from mtp.registry.card import ModelCard
from mtp.registry.connection import tracking_uri
from mtp.registry.fetch import fetch_model, resolve_version
from mtp.registry.metrics import MetricLogger, send_spooled
from mtp.registry.models import ModelVersion, register_model, registered_models, set_alias, versions
from mtp.registry.production import Production, drift, production_of, record_production
from mtp.registry.promote import Gate, promote, record_gates, recorded_gates
from mtp.registry.runs import DatasetRecord, ending_run, finish_run, metric_history, start_run

__all__ = [
    "DatasetRecord",
    "Gate",
    "MetricLogger",
    "ModelCard",
    "ModelVersion",
    "Production",
    "drift",
    "ending_run",
    "fetch_model",
    "finish_run",
    "log_figures",
    "log_json",
    "log_table",
    "metric_history",
    "production_of",
    "promote",
    "record_gates",
    "record_production",
    "recorded_gates",
    "register_model",
    "registered_models",
    "resolve_version",
    "send_spooled",
    "set_alias",
    "start_run",
    "tracking_uri",
    "versions",
]
