"""The conditioner `part-name`: a number in the prompt, the beats per minute, as sines and cosines.

It works as it is. Replace it with your own features, and run its test after each change.
Shapes: b batch, n token, e embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields
from codecdiff.errors import InvalidValue
from torch import Tensor


class PartName(Conditioner):
    """Returns one token of Fourier features, which is absent if the prompt does not have the number.

    field: field of the prompt that contains the number.
    lowest, highest: expected range of the number; numbers outside of it are accepted.
    width: of the token, even; one sine and one cosine for each frequency, each twice the one before.
    """

    rates: Tensor  # (width / 2,)

    # The constructor is the schema of the options: each needs a type, and is required if it has no default. Tensors
    # cannot be options.
    def __init__(self, *, field: str = "bpm", lowest: float = 40.0, highest: float = 240.0, width: int = 16):
        super().__init__()
        if width < 2 or width % 2:
            raise InvalidValue(f"Invalid width={width}: expected an even number of at least 2, for sines and cosines.")
        if not lowest < highest:
            raise InvalidValue(f"Invalid lowest={lowest}: expected a number below highest={highest}.")
        self.field, self.lowest, self.highest, self.width = field, lowest, highest, width
        # The fields of a prompt that are read; in training, they are columns of the metadata.
        self.fields = (field,)
        # Load weights here, as modules or buffers. They are frozen: trainable parameters belong to the denoiser.
        self.register_buffer("rates", math.pi / 2 * 2.0 ** torch.arange(width // 2))

    @property
    def widths(self) -> dict[str, int]:
        """Width of each condition by name. Options of denoisers refer to these names."""
        return {self.field: self.width}

    @torch.no_grad()
    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Prompts -> one token (b, 1, e) each, masked if the number is missing. Rows do not depend on each other."""
        read = [self._number(prompt) for prompt in prompts]
        values = torch.tensor([self.lowest if number is None else number for number in read]).to(self.rates)
        angles = (values - self.lowest)[:, None] / (self.highest - self.lowest) * self.rates
        tokens = torch.cat([angles.sin(), angles.cos()], dim=1)[:, None]
        mask = torch.tensor([[number is not None] for number in read], dtype=torch.bool, device=tokens.device)
        return Condition({self.field: ConditionTokens(tokens, mask)})

    def _number(self, prompt: Prompt) -> float | None:
        value = prompt_fields(prompt).get(self.field)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InvalidValue(f"Invalid {self.field}={value!r} in a prompt: expected a number.")
        return number
