"""Long music and loops: a stage is sampled in windows that overlap.

The frames that a window shares with those before it are kept, as an edit keeps codes: in every step the exact
prediction replaces that of the network there, so that new frames fit them. A stage is finished before the next begins,
whose windows all see it. So memory grows with what a window computes, and not with the length. In a loop, a last window
lies over the end and the beginning, whose outer frames it keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codecdiff.diffusion.sampling import StageMask

MAX_WHOLE_S = 60.0  # longer music is sampled in windows, unless a window is set
WINDOW_S = 30.0
OVERLAP = 0.25  # of a window


@dataclass(frozen=True)
class Window:
    """Frames (w,) of a stage that are sampled together, and which of them are new (w,)."""

    frames: Tensor
    is_new: Tensor

    def mask(self, result: Tensor, edit: StageMask | None) -> StageMask | None:
        """Return what the window keeps of what is sampled already (b, c, l), and of an edit; None for nothing."""
        if edit is None and self.is_new.all():
            return None
        is_new = self.is_new.to(result.device)
        if edit is None:
            part = result[..., self.frames]
            return StageMask(part, ~is_new.expand(part.shape))
        x_start = torch.where(is_new, edit.x_start[..., self.frames], result[..., self.frames])
        return replace(edit, x_start=x_start, keep_mask=edit.keep_mask[..., self.frames] | ~is_new)


def plan_windows(length: int, size: int, *, loop: bool = False) -> list[Window]:
    """Divide the frames of a stage into windows of `size` frames at most, in the order in which they are sampled."""
    size = min(size, length)
    step = max(1, round(size * (1 - OVERLAP)))
    windows, done = [], 0
    while done < length:
        start = max(0, min(done + step - size if done else 0, length - size))
        frames = torch.arange(start, start + size)
        windows.append(Window(frames, frames >= done))
        done = start + size
    if loop and length > 1:
        half = size // 2
        position = torch.arange(2 * half) - half  # 0 is the first frame
        windows.append(Window(position % length, (position + 0.5).abs() < max(1, round(size * OVERLAP / 2))))
    return windows


def window_frames(seconds: float, frame_rate: float, window_in_s: float | None) -> int:
    """Return the frames of a window for music of so many seconds: all of it, unless it is long or a window is set."""
    if window_in_s is None:
        window_in_s = WINDOW_S if seconds > MAX_WHOLE_S else seconds
    return max(2, math.ceil(round(min(window_in_s, seconds) * frame_rate, 6)))


def length_note(seconds: float, crop_seconds: float | None, window_in_s: float | None) -> str:
    """Return a note on music that is generated in windows, by a model of shorter crops; empty for other music."""
    window = WINDOW_S if window_in_s is None and seconds > MAX_WHOLE_S else window_in_s or seconds
    if crop_seconds is None or seconds <= crop_seconds or window >= seconds:
        return ""
    how = f"in overlapping windows of {window:g} s"
    return f"The model was trained on clips of {crop_seconds:g} s; {seconds:g} s of music is generated {how}."


def decode_loop(decode: Callable[[Tensor], Tensor], codes: Tensor, context: int, hop_length: int) -> Tensor:
    """Decode codes (1, k, l) with their last frames before them and the first behind, and return their own audio."""
    length = codes.shape[-1]
    count = min(context, length)
    audio = decode(torch.cat([codes[..., length - count :], codes, codes[..., :count]], dim=-1))
    return audio[..., count * hop_length : (count + length) * hop_length]
