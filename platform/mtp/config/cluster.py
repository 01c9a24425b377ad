"""The local cluster that `mtp up` starts: ports and sizes."""

from pydantic import Field, PositiveInt

from mtp.config.base import Section


class ClusterConfig(Section):
    """A Ray head with its job server, and an MLflow server, on this machine's loopback address."""

    ray_port: int = Field(default=6380, gt=0, lt=65536)
    dashboard_port: int = Field(default=8265, gt=0, lt=65536)
    mlflow_port: int = Field(default=5000, gt=0, lt=65536)
    num_cpus: PositiveInt | None = None
    """CPUs that Ray may hand out; unset: all of the machine."""
    object_store_mb: PositiveInt = 512
