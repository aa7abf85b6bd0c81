"""Numbers, intervals and differences as text, and results as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "describe_difference",
    "format_count",
    "format_difference",
    "format_interval",
    "format_number",
    "format_value",
    "to_json",
]

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}  # by the direction that is better
NOTHING = "–"
MAX_DECIMALS = 6  # smaller numbers are written as 3e−08


def format_number(value: float | None, width: float = 0.0) -> str:
    """Write a number with about three digits, or with more where the width of its interval needs them.

    Two digits of the width (`interval_width`) are shown, so that the ends of the interval differ. A missing value, NaN
    and infinity are dashes.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    decimals = next(decimals for decimals, least in enumerate((100, 10, 1, 0)) if abs(value) >= least)
    if width:
        decimals = min(max(decimals, 1 - math.floor(math.log10(width))), MAX_DECIMALS)
    too_small = width and 0 < abs(value) < 10**-MAX_DECIMALS
    text = f"{value:.2g}" if too_small else f"{value:,.{decimals}f}"
    is_zero = not any(digit in text for digit in "123456789")
    return (text.removeprefix("-") if is_zero else text).replace("-", "−")


def interval_width(low: float | None, high: float | None) -> float:
    """Return how wide an interval is; 0 if there is none, if it is not finite, or if its ends differ by rounding."""
    if low is None or high is None or not math.isfinite(high - low) or math.isclose(low, high, rel_tol=1e-12):
        return 0.0
    return high - low


def format_value(value: object) -> str:
    """Write a fact: a fraction with up to six digits, and what a list or a mapping holds without brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_count(value: float) -> str:
    """Write a count, from a billion on with its power of a thousand, such as "1.5 T" for FLOPs."""
    for scale, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {letter}"
    return f"{value:,.0f}"


def format_interval(low: float | None, high: float | None) -> str:
    """Write an interval as "0.50 to 0.75", with the same precision at both ends. Empty if there is none."""
    width = interval_width(low, high)
    return f"{format_number(low, width)} to {format_number(high, width)}" if width else ""


def format_difference(value: float, low: float | None = None, high: float | None = None) -> str:
    """Write a difference with its sign and its interval. Without an interval, only a true zero is written as zero."""
    text = format_number(value, interval_width(low, high) or abs(value))
    sign = "+" if value > 0 and any(digit in text for digit in "123456789") else ""
    interval = format_interval(low, high)
    return sign + text + (f" ({interval})" if interval else "")


def describe_difference(value: float, low: float | None, high: float | None, better: str) -> str:
    """Say what a difference and its 95 % interval show. `better` is "lower", "higher", or "" where neither is."""
    if value == low == high == 0:
        return "the same"
    if low is None or high is None or not interval_width(low, high):
        return "one seed: differences between runs are not estimated"
    if low <= 0 <= high:
        return "no difference shown: the 95 % interval includes zero"
    if not better:
        return "differs"
    return "better" if (value < 0) == (better == "lower") else "worse"


def to_json(value: Any) -> Any:
    """Return dataclasses, named tuples, mappings and sequences as JSON can hold them; NaN and infinity become None."""
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
