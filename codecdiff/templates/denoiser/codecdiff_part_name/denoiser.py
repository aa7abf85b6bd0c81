"""The denoiser `part-name`: a residual network of dilated convolutions over the frames.

It works as it is. Replace it with your own network, and run its test after each change.
Shapes: b batch, c channel, l latent frame, n token, e embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from codecdiff import Condition, Denoiser
from codecdiff.denoisers import fill_nulls
from codecdiff.errors import InvalidValue
from torch import Tensor, nn
from torch.nn import functional


def waves(timestep: Tensor, width: int) -> Tensor:
    """(b,) timesteps -> (b, width) sines and cosines, of 1 to 1 / 10,000 radians per timestep."""
    rates = 10_000.0 ** -torch.linspace(0, 1, width // 2, device=timestep.device)
    angles = timestep.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """A residual dilated convolution, scaled and shifted by features (b, width) of time and prompt."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.look = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.add = nn.Conv1d(width, width, 1)

    def forward(self, frames: Tensor, features: Tensor) -> Tensor:
        """(b, width, l) frames -> frames of the same shape."""
        scale, shift = self.modulation(features)[..., None].chunk(2, dim=1)
        inner = self.norm(frames) * (1 + scale) + shift
        return frames + self.add(functional.silu(self.look(functional.silu(inner))))


class PartName(Denoiser):
    """Residual blocks with dilations of 1, 2, 4, 8, 16, 1, 2... frames; a condition is the mean of its tokens.

    width: channels of every block, even.
    depth: number of blocks.
    """

    # The constructor is the schema of the options: each needs a type, and is required if it has no default. The first
    # three are derived from codec, splitter and conditioner, and cannot be set.
    def __init__(
        self,
        *,
        channels: int,
        context_channels: int,
        condition_widths: Mapping[str, int],
        width: int = 64,
        depth: int = 10,
    ):
        super().__init__()
        if width < 2 or width % 2:
            raise InvalidValue(f"Invalid width={width}: expected an even number of at least 2, for sines and cosines.")
        self.channels = channels
        self.context_channels = context_channels
        self.condition_widths = dict(condition_widths)
        self.width = width
        self.enter = nn.Conv1d(channels + context_channels, width, 1)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        # One layer and one learned null for each condition; the null replaces an absent condition.
        self.conditions = nn.ModuleDict({name: nn.Linear(e, width) for name, e in condition_widths.items()})
        self.nulls = nn.ParameterDict({name: nn.Parameter(torch.zeros(e)) for name, e in condition_widths.items()})
        self.blocks = nn.ModuleList(Block(width, 2 ** (i % 5)) for i in range(depth))
        self.leave = nn.Conv1d(width, channels, 1)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """(b, c, l) noisy latents, (b,) timesteps, (b, c', l) context or None, condition -> (b, c, l) prediction."""
        # Accept any number of frames. If your network needs a multiple of some number, pad here and crop the result.
        seen = torch.cat([noisy, context], dim=1) if context is not None and self.context_channels else noisy
        frames, features = self.enter(seen), self._features(timestep, condition, noisy)
        for block in self.blocks:
            frames = block(frames, features)
        return self.leave(frames)

    def _features(self, timestep: Tensor, condition: Condition, noisy: Tensor) -> Tensor:
        """(b,) timesteps and the condition -> (b, width) features of both."""
        features = self.time(waves(timestep, self.width).to(noisy.dtype))
        filled = fill_nulls(condition, dict(self.nulls.items()))
        for name, layer in self.conditions.items():
            tokens, mask = filled[name]
            # Masked tokens can contain anything and must have no effect.
            valid = tokens.where(mask[..., None], torch.zeros_like(tokens)).to(noisy.dtype)
            features = features + layer(valid.sum(1) / mask.sum(1, keepdim=True))
        return functional.silu(features)

    # If much of the work depends only on the timestep and the condition, do it once in `prepare_for_sampling`.
