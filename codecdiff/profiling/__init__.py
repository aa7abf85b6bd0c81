"""What training will need, counted before it starts."""

from typing import TYPE_CHECKING

from codecdiff import lazy_exports

if TYPE_CHECKING:
    from codecdiff.profiling.flops import OperationCounter
    from codecdiff.profiling.plan import blank_input, count_step

__all__ = ["OperationCounter", "blank_input", "count_step"]

__getattr__, __dir__ = lazy_exports(__name__)
