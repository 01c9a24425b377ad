"""Where runs and models are remembered."""

from mtp.config.base import Section


class TrackingConfig(Section):
    """MLflow: tracking server and registry."""

    uri: str | None = None
    """Unset: MLFLOW_TRACKING_URI, else the local cluster's server if it is up, else `mlflow.db` in the state folder."""
    experiment: str = "mtp"
    model_name: str = "mtp"
    """The registered model that versions are added to."""
