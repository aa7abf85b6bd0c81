"""The conditioner `part-name`: a number of the prompt, the beats per minute, as sines and cosines.

It works as it is. Put your own features in their place; the test beside it says what no longer holds.
Shapes: b batch, n token, e embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields
from torch import Tensor


class PartName(Conditioner):
    """One token of Fourier features, absent where the prompt does not have the number.

    field: of the prompt that holds the number.
    lowest, highest: of the numbers there will be; others are read too, but told apart less well.
    width: of the token, even; each pair of numbers is a sine and a cosine, twice as fast as the pair before.
    """

    rates: Tensor  # (width / 2,)

    # The constructor is the schema of your options: give each a type and a default. Tensors are no options.
    def __init__(self, *, field: str = "bpm", lowest: float = 40.0, highest: float = 240.0, width: int = 16):
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width={width}: sines and cosines make it even, 2 at least.")
        if not lowest < highest:
            raise ValueError(f"lowest={lowest} has to be below highest={highest}.")
        self.field, self.lowest, self.highest, self.width = field, lowest, highest, width
        # The fields of a prompt that are read: with training, those are columns of its metadata.
        self.fields = (field,)
        # Load weights here, as modules or as buffers. They stay as they are: what learns belongs to the denoiser.
        self.register_buffer("rates", math.pi / 2 * 2.0 ** torch.arange(width // 2))

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every entry of the condition; denoisers name the entries in their options."""
        return {self.field: self.width}

    @torch.no_grad()
    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Prompts -> one token (b, 1, e) each, masked where there is no number. A row never depends on another."""
        numbers = [self._number(prompt) for prompt in prompts]
        values = torch.tensor([self.lowest if number is None else number for number in numbers]).to(self.rates)
        angles = (values - self.lowest)[:, None] / (self.highest - self.lowest) * self.rates
        tokens = torch.cat([angles.sin(), angles.cos()], dim=1)[:, None]
        mask = torch.tensor([[number is not None] for number in numbers], dtype=torch.bool, device=tokens.device)
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
            raise ValueError(f"{self.field}={value!r} of a prompt is no number.")
        return number
