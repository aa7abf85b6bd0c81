"""Controls: conditions with a token for every latent frame, which a denoiser reads frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.denoisers.conditioning import fill_nulls
from codecdiff.interfaces.condition import Condition

__all__ = ["ControlInput", "control_frames"]


def control_frames(condition: Condition, nulls: Mapping[str, Tensor]) -> Tensor:
    """Return the tokens of every name in `nulls` (e,) side by side, (b, sum of e, n + 1), one for each frame.

    The learned null is where a frame lacks a real token, and after the last: `ControlInput` repeats it as often as
    there are more frames. Names that the condition lacks have it everywhere, in a single row if it has none of them.
    Raises ValueError as `fill_nulls` does.
    """
    filled = fill_nulls(condition, nulls)
    rows, count = (max(entry.mask.shape[axis] for entry in filled.values()) for axis in (0, 1))
    frames = []
    for name, (tokens, mask) in filled.items():
        missing = count + 1 - mask.shape[1]
        mask = functional.pad(mask, (0, missing))[..., None]
        each = torch.where(mask, functional.pad(tokens, (0, 0, 0, missing)), nulls[name])
        frames.append(each.expand(rows, -1, -1))
    return torch.cat(frames, dim=-1).mT


class ControlInput(nn.Module):
    """What controls add to the frames of a network, at each of its resolutions: nothing at first.

    A linear map of the controls of the `patch` frames that the network treats as one, averaged over as many of these
    as a level does.

    width: of all controls together.
    channels: of the levels, whose resolutions halve from one to the next.
    """

    def __init__(self, width: int, channels: Sequence[int], *, patch: int = 1):
        super().__init__()
        self.patch = patch
        self.levels = nn.ModuleList(nn.Conv1d(width * patch, each, kernel_size=1, bias=False) for each in channels)
        for level in self.levels:
            nn.init.zeros_(level.weight)  # pyright: ignore[reportArgumentType]  # of a ModuleList's item

    def forward(self, controls: Tensor, num_frames: int, multiple: int) -> list[Tensor]:
        """`control_frames` (b, e, n + 1), for frames padded to a multiple -> (b, c, n') of every level."""
        count = min(num_frames, controls.shape[-1] - 1)
        null = controls[..., -1:].expand(-1, -1, num_frames + -num_frames % multiple - count)
        frames = torch.cat([controls[..., :count], null], dim=-1)
        patches = rearrange(frames, "b e (n patch) -> b (e patch) n", patch=self.patch)
        return [level(functional.avg_pool1d(patches, 2**i)) for i, level in enumerate(self.levels)]
