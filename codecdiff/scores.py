"""Scores: a measured value that says how it came about, and is compared only with what was measured alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from codecdiff.metrics import Estimate
from codecdiff.protocols import Protocol

Better = Literal["lower", "higher"]

RESAMPLES = 200  # of an interval


class Unlike(ValueError):
    """Two scores that do not mean the same were compared; the message names what differs."""


@dataclass(frozen=True)
class Interval:
    """Where the value may lie: `level` of resamples of what `over` names.

    It is centred on the value (`codecdiff.metrics.bootstrap`), so a distance near 0 may have a negative end.
    """

    low: float
    high: float
    level: float = 0.95
    over: str = "judged recordings"
    resamples: int = RESAMPLES


def share(estimate: Estimate) -> Estimate:
    """Cut the interval of a share to 0...1, which centring can leave."""
    return Estimate(estimate.value, max(estimate.low, 0.0), min(estimate.high, 1.0))


@dataclass(frozen=True)
class Score:
    """A measured value with its interval, how it was measured, and what to beware of.

    better: which way is good.
    chance: the same score where captions, or asked facts, are dealt at random, if it depends on them.
    ceiling: the same score of the reference itself, where it was given.
    per_clip: the value of every clip by name, where the score is a mean over clips.
    warnings: sentences that belong beside the value wherever it is shown.

    `<`, `-` and `/` raise `Unlike` unless both were measured alike.
    """

    name: str
    value: float
    interval: Interval
    protocol: Protocol
    better: Better
    warnings: tuple[str, ...] = ()
    chance: Estimate | None = None
    ceiling: Estimate | None = None
    per_clip: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.protocol, Protocol) or not isinstance(self.interval, Interval):
            raise TypeError(f"{self.name}: a score is made with an Interval and a Protocol, not as a bare number.")
        if not all(map(math.isfinite, (self.value, self.interval.low, self.interval.high))):
            raise ValueError(f"{self.name} is {self.value} [{self.interval.low}, {self.interval.high}]: not a number.")

    def require_alike(self, other: Score) -> None:
        """Raise `Unlike`, naming every field that differs, unless two scores can be compared."""
        if not isinstance(other, Score):
            raise TypeError(f"A score is compared with a score, but got {other!r}: a bare number has no protocol.")
        named = [f"name: {self.name!r} and {other.name!r}"] if self.name != other.name else []
        if differences := [*named, *self.protocol.differences(other.protocol)]:
            raise Unlike(f"These scores were not measured alike: {'; '.join(differences)}. Measure one of them again.")

    def __lt__(self, other: Score) -> bool:
        self.require_alike(other)
        return self.value < other.value

    def __gt__(self, other: Score) -> bool:
        self.require_alike(other)
        return self.value > other.value

    def is_better_than(self, other: Score) -> bool:
        """Tell whether this score is the better one; whether by more than chance, the interval of `-` says."""
        return self < other if self.better == "lower" else self > other

    def __sub__(self, other: Score) -> Estimate:
        """Give the difference with its interval, as if the two were independent: too wide where they share a reference.

        The distances of the ends are added in quadrature.
        """
        self.require_alike(other)
        a, b = self.interval, other.interval
        value = self.value - other.value
        down = math.hypot(self.value - a.low, b.high - other.value)
        up = math.hypot(a.high - self.value, other.value - b.low)
        return Estimate(value, value - down, value + up)

    def __truediv__(self, other: Score) -> Estimate:
        """Give the ratio with its interval, as if the two were independent. NaN unless both intervals are above 0."""
        self.require_alike(other)
        a, b = self.interval, other.interval
        if min(a.low, b.low) <= 0:
            return Estimate(self.value / other.value if other.value else math.nan, math.nan, math.nan)
        value = self.value / other.value
        down = math.hypot(math.log(self.value / a.low), math.log(b.high / other.value))
        up = math.hypot(math.log(a.high / self.value), math.log(other.value / b.low))
        return Estimate(value, value * math.exp(-down), value * math.exp(up))

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} [{self.interval.low:.4g}, {self.interval.high:.4g}]"

    def to_json(self) -> dict[str, Any]:
        """Give the score as JSON can hold it."""
        estimates = {name: e and e._asdict() for name, e in (("chance", self.chance), ("ceiling", self.ceiling))}
        return {**asdict(self), "warnings": list(self.warnings), **estimates}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Take back what `to_json` gave."""
        estimates = {name: values[name] and Estimate(**values[name]) for name in ("chance", "ceiling")}
        made = {
            "interval": Interval(**values["interval"]),
            "protocol": Protocol.from_json(values["protocol"]),
            "warnings": tuple(values["warnings"]),
            **estimates,
        }
        return cls(**{**values, **made})
