"""Layer 2: what a training would need, before anything is rented: memory, communication, time, cost.

Reads shapes off the model (mtp.model on the meta device) and applies formulas; runs nothing and imports no ray.
"""

from mtp.plan.accelerators import ACCELERATORS, Accelerator, accelerator
from mtp.plan.plan import Plan, StagePlan, make_plan

__all__ = ["ACCELERATORS", "Accelerator", "Plan", "StagePlan", "accelerator", "make_plan"]
