"""The local cluster that `mtp up` starts: ports and sizes."""

from pydantic import Field, NonNegativeInt, PositiveInt

from mtp.config.base import Section


class ClusterConfig(Section):
    """A Ray head with its job server, further nodes, and an MLflow server, on this machine's loopback address."""

    ray_port: int = Field(default=6380, gt=0, lt=65536)
    dashboard_port: int = Field(default=8265, gt=0, lt=65536)
    mlflow_port: int = Field(default=5000, gt=0, lt=65536)
    num_cpus: PositiveInt | None = None
    """CPUs that Ray may hand out on the head's node; unset: all of the machine."""
    object_store_mb: PositiveInt = 512
    """Shared memory for each node's objects."""
    nodes: NonNegativeInt = 0
    """Ray nodes beside the head's, all on this machine: to try what several machines do."""
    cpus_per_node: PositiveInt = 1
    """CPUs that Ray may hand out on each of them; the machine does not get more of them."""
    monitoring: bool = False
    """Start Prometheus too, which has to be installed."""
    prometheus_port: int = Field(default=9090, gt=0, lt=65536)
