"""Numbers and classes of a prompt as fixed features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor

from codecdiff.config import ConfigError
from codecdiff.config.schema import Config
from codecdiff.errors import InvalidValue, validation_issues
from codecdiff.fingerprint import device_of
from codecdiff.interfaces.condition import Condition, ConditionTokens, Prompt, prompt_fields
from codecdiff.interfaces.conditioner import Conditioner

MAX_PERIODS = 64.0  # of the fastest sinusoid between the ends of a range


class FieldType(Config):
    """The type of a field: a number from `low` to `high`, or one of `classes`."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)
    classes: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        options = self.model_dump(exclude_none=True).keys()
        if options not in ({"low", "high"}, {"classes"}):
            raise ValueError("write the low and the high of a number, as in {low: 40, high: 220}, or else its classes")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low must be below high, but {self.low:g} is not below {self.high:g}")
        if self.classes is not None and (not self.classes or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes are one or more texts, none of them twice")
        return self


def fourier_features(x: Tensor, width: int) -> Tensor:
    """Return Fourier features (n, e) of numbers (n,) in [0, 1], of unit mean square.

    Sines and cosines of frequencies from half a period over the range, which tells all numbers apart, to MAX_PERIODS,
    in geometric steps: the "positional encoding" of Tancik et al. (2020), arXiv:2006.10739.
    """
    rates = math.pi * (2 * MAX_PERIODS) ** torch.linspace(0, 1, width // 2, dtype=torch.float64)
    angles = x.double()[:, None] * rates
    return (math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)).float()


class NumericConditioner(Conditioner):
    """Numbers and classes of a prompt, such as tempo, key and seconds, as fixed features: one token for each field.

    The name of the token is the field's. It is absent for a prompt that lacks the field. A number may be written as
    text ("120"). A number outside of its range counts as the nearer end, with a warning.

    Args:
        fields: Type of each field: `{tempo: {low: 40, high: 220}, key: {classes: [C major, A minor]}}`.
        width: Embedding width of numbers, an even number. That of classes is their number.

    Raises:
        ConfigError: `fields` or `width` is invalid.

    """

    def __init__(self, fields: dict[str, FieldType], *, width: int = 64) -> None:
        super().__init__()
        try:
            self.types = TypeAdapter(dict[str, FieldType]).validate_python(fields)
        except ValidationError as error:
            issue = validation_issues(error)[0]
            raise ConfigError(f"{issue._replace(place=f'fields.{issue.place}')}.") from error
        if not self.types:
            raise ConfigError("fields={}: name at least one, as in {tempo: {low: 40, high: 220}}.")
        if width < 2 or width % 2:
            raise ConfigError(f"width={width}: expected an even number, at least 2.")
        self.arguments["fields"] = {
            name: type_.model_dump(mode="json", exclude_none=True) for name, type_ in self.types.items()
        }
        self.fields = tuple(self.types)
        self.width = width
        self.register_buffer("device_marker", torch.empty(0), persistent=False)
        self._has_warned: set[str] = set()

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every field."""
        return {name: self.width if t.classes is None else len(t.classes) for name, t in self.types.items()}

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Every name depends on the field of that name."""
        return {name: (name,) for name in self.fields}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Encode n prompts to one token (n, 1, e) for each field. Raises ValueError for a value of another type."""
        rows = [prompt_fields(prompt) for prompt in prompts]
        tokens = {name: self._encode_field(name, [fields.get(name) for fields in rows]) for name in self.fields}
        return Condition(tokens).to(device_of(self))

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Encode the prompts once, so that invalid values raise ValueError before training, and not during it."""
        self.encode(prompts)

    def _encode_field(self, name: str, values: Sequence[Any]) -> ConditionTokens:
        field = self.types[name]
        is_present = torch.tensor([value is not None and value != "" for value in values], dtype=torch.bool)
        present = [value for value in values if value is not None and value != ""]
        if (classes := field.classes) is not None:
            index = torch.tensor([class_index(value, classes, name) for value in present], dtype=torch.long)
            # of unit mean square, as the features of numbers
            features = math.sqrt(len(classes)) * torch.nn.functional.one_hot(index, len(classes)).float()
        else:
            positions = torch.tensor([self._position(value, name, field) for value in present], dtype=torch.float64)
            features = fourier_features(positions, self.width)
        tokens = torch.zeros(len(values), 1, self.widths[name])
        tokens[is_present, 0] = features
        return ConditionTokens(tokens, is_present[:, None])

    def _position(self, value: Any, name: str, field: FieldType) -> float:
        """Return the position of a value in its range, 0 at the low end and 1 at the high end."""
        low, high = field.low or 0.0, field.high or 0.0
        number = parse_number(value, name)
        if not low <= number <= high and name not in self._has_warned:
            self._has_warned.add(name)
            warnings.warn(
                f"{name}={number:g} is outside of {low:g} to {high:g} and is clipped to that range. Further values "
                "outside will not be reported.",
                stacklevel=2,
            )
        return (min(max(number, low), high) - low) / (high - low)


def parse_number(value: Any, name: str) -> float:
    """Parse a finite number, possibly written as text. Raises ValueError with the name of the field."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValue(f"{name}={value!r}: the field '{name}' of a prompt is a number, as in {name}=120.")
    return number


def class_index(value: Any, classes: Sequence[str], name: str) -> int:
    """Return the index of a value among the classes. Raises ValueError, with the name of the field, if it is none."""
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    if text not in classes:
        raise InvalidValue(f"{name}={value!r}: the field '{name}' of a prompt is one of {', '.join(classes)}.")
    return classes.index(text)
