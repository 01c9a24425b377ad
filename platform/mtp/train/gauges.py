"""How busy the machines are that train: processor, memory and GPUs of every node, as MLflow names them.

Each rank reads its own GPU, and one rank a node reads the node; nothing is read between two logs. The names are those
of MLflow's own monitor, so that its page of system metrics shows them; that monitor would log from one node only, and
not through the spool that outlasts a registry which is down.
"""

from importlib.util import find_spec

import psutil
import torch

from mtp.train.collective import gathered

_MEGABYTE = 1e6


class Gauges:
    """This rank's gauges; all ranks read them at the same steps."""

    def __init__(self, device: torch.device, rank: int, node: int, first_on_node: bool, nodes: int) -> None:
        """`node`: the node's number among `nodes`; `first_on_node`: whether this rank speaks for it."""
        self._device = device
        self._rank = rank
        self._prefix = f"system/node_{node}/" if nodes > 1 else "system/"
        self._speaks = first_on_node
        psutil.cpu_percent()  # the first reading only starts the clock

    def read(self) -> dict[str, float]:
        """The readings of all ranks; utilisation since the last one. Collective."""
        mine = (self._node() if self._speaks else {}) | self._gpu()
        return {name: value for readings in gathered(mine) for name, value in readings.items()}

    def _node(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {
            f"{self._prefix}cpu_utilization_percentage": psutil.cpu_percent(),
            f"{self._prefix}system_memory_usage_megabytes": memory.used / _MEGABYTE,
            f"{self._prefix}system_memory_usage_percentage": memory.percent,
        }

    def _gpu(self) -> dict[str, float]:
        if self._device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(self._device)
        readings = {
            f"system/gpu_{self._rank}_memory_usage_megabytes": (total - free) / _MEGABYTE,
            f"system/gpu_{self._rank}_memory_usage_percentage": 100 * (1 - free / total),
        }
        if find_spec("pynvml"):
            readings[f"system/gpu_{self._rank}_utilization_percentage"] = float(torch.cuda.utilization(self._device))
        return readings
