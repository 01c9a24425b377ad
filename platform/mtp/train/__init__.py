"""Layer 4: training on Ray Train with DeepSpeed. `fit` trains; `RunFolder` tells what became of a run.

Importing this package is cheap; `fit` imports ray and torch when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from mtp.train.events import OnProgress, TrainEvent
from mtp.train.run_folder import RunFolder, RunRecord, TrainResult

if TYPE_CHECKING:
    from mtp.train.trainer import fit

__all__ = ["OnProgress", "RunFolder", "RunRecord", "TrainEvent", "TrainResult", "fit"]


def __getattr__(name: str) -> Any:
    if name == "fit":
        from mtp.train.trainer import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
