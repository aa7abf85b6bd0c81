"""What training will need, counted before it starts."""

from codecdiff.profiling.flops import OperationCounter
from codecdiff.profiling.plan import Assumptions, attainable_flops, blank_input, count_step, plan_report, step_cost

__all__ = [
    "Assumptions",
    "OperationCounter",
    "attainable_flops",
    "blank_input",
    "count_step",
    "plan_report",
    "step_cost",
]
