"""Layer 2: which trials a sweep consists of, what became of them, and their figure. Runs nothing."""

from mtp.sweep.figure import sweep_figure
from mtp.sweep.record import SweepRecord, TrialRecord
from mtp.sweep.trials import Trial, plan_trials

__all__ = ["SweepRecord", "Trial", "TrialRecord", "plan_trials", "sweep_figure"]
