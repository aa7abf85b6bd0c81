"""Conditioners of the core: numbers and classes as fixed features, and several conditioners as one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor

from codecdiff.config import ConfigError
from codecdiff.config.schema import Config
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields

FINEST = 64.0  # periods of the fastest sinusoid between the ends of a range


class Reading(Config):
    """How a field is read: as a number from `low` to `high`, or as one of `classes`."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)
    classes: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        given = self.model_dump(exclude_none=True).keys()
        if given not in ({"low", "high"}, {"classes"}):
            raise ValueError("give the low and the high of a number, as {low: 40, high: 220}, or else its classes")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low has to be below high, and {self.low:g} is not below {self.high:g}")
        if self.classes is not None and (not self.classes or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes are one or more texts, none of them twice")
        return self


READINGS = TypeAdapter(dict[str, Reading])


def fourier(place: Tensor, width: int) -> Tensor:
    """Give Fourier features (n, e) of places (n,) in [0, 1], of unit mean square.

    Sines and cosines of rates from half a period over the range, in which no two places are alike, to FINEST periods,
    in geometric steps: the fixed features of Tancik et al. (2020), arXiv:2006.10739, their "positional encoding".
    """
    rates = math.pi * (2 * FINEST) ** torch.linspace(0, 1, width // 2, dtype=torch.float64)
    angles = place.double()[:, None] * rates
    return (math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)).float()


def one_hot(index: Tensor, count: int) -> Tensor:
    """Give one-hot features (n, count) of classes (n,), of unit mean square."""
    return math.sqrt(count) * torch.nn.functional.one_hot(index, count).float()


class NumericConditioner(Conditioner):
    """Numbers and classes of a prompt, such as tempo, key and seconds, as fixed features: one entry for each field.

    An entry has the name of its field and one token. It is absent from a prompt that does not have the field, whatever
    else it has. A number may be written as text ("120"). One beyond an end of its range is read as that end, with a
    warning; what is no number, or none of the classes, is refused.

    Args:
        fields: How each field is read: `{tempo: {low: 40, high: 220}, key: {classes: [C major, A minor]}}`.
        width: Embedding width of numbers. That of classes is how many there are.

    Raises:
        ConfigError: `fields` says something else, or nothing; `width` is no even number of at least 2.

    """

    def __init__(self, fields: dict[str, Reading], *, width: int = 64) -> None:
        super().__init__()
        self.readings = _readings(fields)
        if width < 2 or width % 2:
            raise ConfigError(f"width={width}: the features of a number are an even number of them, at least 2.")
        said = {name: reading.model_dump(mode="json", exclude_none=True) for name, reading in self.readings.items()}
        self.arguments["fields"] = said
        self.fields = tuple(self.readings)
        self.width = width
        self.register_buffer("place", torch.empty(0), persistent=False)  # where it computes
        self._has_warned: set[str] = set()

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every field's entry."""
        return {name: self.width if r.classes is None else len(r.classes) for name, r in self.readings.items()}

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Every entry follows from its own field."""
        return {name: (name,) for name in self.fields}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Give n prompts as one token (b, 1, e) for each field. Raises ValueError for a value that is none."""
        told = [prompt_fields(prompt) for prompt in prompts]
        entries = {name: self._entry(name, [fields.get(name) for fields in told]) for name in self.fields}
        return Condition(entries).to(device_of(self))

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that cannot be read before training, and not in the midst of it."""
        self.encode(prompts)

    def _entry(self, name: str, values: Sequence[Any]) -> ConditionTokens:
        reading = self.readings[name]
        there = torch.tensor([value is not None and value != "" for value in values], dtype=torch.bool)
        real = [value for value, known in zip(values, there, strict=True) if known]
        if reading.classes is not None:
            index = torch.tensor([class_of(value, reading.classes, name) for value in real], dtype=torch.long)
            features = one_hot(index, len(reading.classes))
        else:
            places = torch.tensor([self._place(value, name, reading) for value in real], dtype=torch.float64)
            features = fourier(places, self.width)
        tokens = torch.zeros(len(values), 1, self.widths[name])
        tokens[there, 0] = features
        return ConditionTokens(tokens, there[:, None])

    def _place(self, value: Any, name: str, reading: Reading) -> float:
        """Give where a value lies in its range, 0 at the low end and 1 at the high one."""
        low, high = reading.low or 0.0, reading.high or 0.0
        number = number_of(value, name)
        if not low <= number <= high and name not in self._has_warned:
            self._has_warned.add(name)
            warnings.warn(
                f"{name}={number:g} is outside of {low:g} to {high:g}, and read as the nearer end. Further ones are "
                "without a word.",
                stacklevel=2,
            )
        return (min(max(number, low), high) - low) / (high - low)


def _readings(fields: Mapping[str, Any]) -> dict[str, Reading]:
    """Read the option `fields`. Raises ConfigError, saying which field and why."""
    try:
        readings = READINGS.validate_python(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        spot = ".".join(["fields", *map(str, fault["loc"])])
        raise ConfigError(f"{spot} = {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}.") from error
    if not readings:
        raise ConfigError("fields={}: name at least one, as in {tempo: {low: 40, high: 220}}.")
    return readings


def number_of(value: Any, name: str) -> float:
    """Read a number, or text that is one. Raises ValueError, naming the field, for anything else."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}={value!r}: the field '{name}' of a prompt is a number, as in {name}=120.")
    return number


def class_of(value: Any, classes: Sequence[str], name: str) -> int:
    """Give the index of a value among classes. Raises ValueError, naming the field, for one that is not there."""
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    if text not in classes:
        raise ValueError(f"{name}={value!r}: the field '{name}' of a prompt is one of {', '.join(classes)}.")
    return classes.index(text)
