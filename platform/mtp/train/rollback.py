"""What a run does about too many steps in a row that moved nothing: it goes back, or gives up.

Going back is written down before anything else happens, so that every later attempt, whatever ends this one, leaves
the same batches out. Knows run folders; knows nothing of engines.
"""

from mtp.config.train import FaultConfig
from mtp.errors import MTPError
from mtp.train.events import RolledBack
from mtp.train.manifest import newest_whole
from mtp.train.run_folder import Rollback, RunFolder


def require_leave(faults: FaultConfig, rollbacks: int, step: int) -> None:
    """See that a run may go back once more.

    Raises:
        MTPError: it has gone back `rollbacks` times, which is as often as it may.
    """
    if rollbacks >= faults.max_rollbacks:
        raise MTPError(
            f"training stopped at step {step}: {faults.max_skipped_steps} steps in a row had a loss or gradient that "
            f"is not finite, and the run has gone back {rollbacks} times already (train.faults.max_rollbacks); lower "
            f"train.optimizer.lr or raise train.lr_schedule.warmup under another train.run_name"
        )


def roll_back(folder: RunFolder, step: int, bad_steps: list[int]) -> RolledBack:
    """Write down that the batches of `bad_steps` are left out from now on; for rank 0 alone."""
    newest = newest_whole(folder.filesystem, folder.path)
    to_step = newest[1].state.step if newest else 0
    folder.roll_back(Rollback(step=step, to_step=to_step, passed_over=tuple(bad_steps)))
    return RolledBack(step, to_step, tuple(bad_steps))
