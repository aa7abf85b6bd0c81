"""What training will need, counted before it starts."""

from codecdiff.profiling.flops import OperationCounter
from codecdiff.profiling.plan import Assumptions, blank_input, count_step, plan_report, step_cost

__all__ = ["Assumptions", "OperationCounter", "blank_input", "count_step", "plan_report", "step_cost"]
