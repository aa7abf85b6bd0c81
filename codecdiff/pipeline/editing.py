"""Editing is sampling with some codes kept: an edit is a mask over (codebook, frame).

Refining keeps the coarse levels of all frames, inpainting all levels outside some regions, extending all levels of the
source's frames, restoring the levels that the source was coded with. Varying keeps nothing, and starts from noisy
latents of the source instead of pure noise.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from codecdiff.arguments import Arguments
from codecdiff.codecs import chunked
from codecdiff.config.schema import Target
from codecdiff.data.audio import open_streams, read_audio
from codecdiff.diffusion.sampling import StageMask
from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Splitter
from codecdiff.splitters import parse_range


@dataclass(frozen=True)
class EditMask:
    """The sources of an edit, one row for each sample, and what it keeps of them.

    codes: (n, k, l).
    latents: (n, k, d, l), as the model diffuses them: codebook vectors or continuous latents.
    keep_mask: (n, k, l), True where the codes are returned unchanged.
    strength: fraction of the training timesteps at which sampling starts from `latents` under noise, in (0, 1]; at 1 it
        starts from pure noise.
    """

    codes: Tensor
    latents: Tensor
    keep_mask: Tensor
    strength: float = 1.0

    def __post_init__(self):
        n, k, frames = self.codes.shape
        for name, tensor, shape in (
            ("latents", self.latents, (n, k, self.latents.shape[2], frames)),
            ("keep_mask", self.keep_mask, (n, k, frames)),
        ):
            if tensor.shape != shape:
                raise InvalidValue(
                    f"The {name} of codes {(n, k, frames)} has shape {tuple(tensor.shape)}, not {shape}."
                )
        if not 0 < self.strength <= 1:
            raise InvalidValue(f"Invalid strength={self.strength}: expected more than 0 and at most 1.")

    @classmethod
    def from_codes(cls, codec: Codec, codes: Tensor) -> Self:
        """Return sources from codes (n, k, l), with nothing kept."""
        return cls(codes, codec.embed(codes), torch.zeros_like(codes, dtype=torch.bool))

    @classmethod
    def from_audio(cls, codec: Codec, audio: Tensor, target: Target = "codes") -> Self:
        """Return sources from audio (n, ch, t), with nothing kept; `target` is that of the model."""
        local, audio = chunked(codec), audio.to(device_of(codec))
        if target == "codes":
            return cls.from_codes(codec, local.encode(audio))
        codes, latents = local.encode_with_continuous(audio)
        return cls(codes, latents, torch.zeros_like(codes, dtype=torch.bool))

    @property
    def frames(self) -> int:
        """Latent frames."""
        return self.codes.shape[-1]

    def is_new(self, hop_length: int, samples: int) -> Tensor:
        """Return (t,), True for the audio samples of frames with codes that are not kept, and of the frames beside."""
        keep = self.keep_mask[0].all(0).cpu()  # the decoder carries a frame into its neighbors
        beside = [pad(keep, (1, 1), value=True)[start : start + self.frames] for start in (0, 1, 2)]
        return (~torch.stack(beside).all(0)).repeat_interleave(hop_length)[:samples]

    def keep(self, mask: Tensor) -> Self:
        """Keep the codes where a mask that broadcasts to (n, k, l) is True, and no others."""
        return replace(self, keep_mask=mask.to(self.codes.device).expand(self.codes.shape))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        names = ("codes", "latents", "keep_mask")
        return replace(self, **{name: function(getattr(self, name)) for name in names})

    def select(self, rows: Sequence[int]) -> Self:
        """Select rows."""
        return self._map(lambda tensor: tensor[rows])

    def repeat(self, count: int) -> Self:
        """Repeat every row `count` times in place, as `num_waveforms_per_prompt` does."""
        return self._map(lambda tensor: tensor.repeat_interleave(count, 0))

    def extend(self, frames: int) -> Self:
        """Append frames that are not kept."""
        return self._map(lambda tensor: pad(tensor, (0, frames)))

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        return self._map(lambda tensor: tensor.to(device))

    def stage_masks(self, splitter: Splitter) -> list[StageMask]:
        """Return the mask of every stage. The padding of a pattern is neither kept nor missing."""
        keep = self.keep_mask[:, :, None].expand(self.latents.shape).to(self.latents)
        stages = zip(*map(splitter.split, (self.latents, keep, 1 - keep)), strict=True)
        return [StageMask(latents, mask > 0, not bool(new.any()), self.strength) for latents, mask, new in stages]


class Edit(Arguments, ABC):
    """A rule for what to keep of a source. Its fields are all that is needed to apply it again."""

    @abstractmethod
    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Return the source with what is kept. Raises InvalidValue if the edit does not fit it."""

    def apply_to_audio(self, audio: Tensor | Path | str, codec: Codec, target: Target) -> tuple[EditMask, int]:
        """Apply the edit to a file, or to audio (ch, t) at the codec's sample rate.

        Returns the mask of one sample, and its number of audio samples. Raises InvalidValue for audio of another shape.
        """
        if isinstance(audio, str | Path):
            file, audio = audio, read_audio(audio, codec.sample_rate, codec.channels)
            if (channels := next(open_streams(file)).channels) > codec.channels:
                have = {1: "mono", 2: "stereo"}
                warnings.warn(
                    f"'{file}' is {have.get(channels, f'of {channels} channels')}, and the model is "
                    f"{have.get(codec.channels, f'of {codec.channels}')}: the channels are mixed.",
                    stacklevel=3,
                )
        if not isinstance(audio, Tensor):
            raise InvalidValue(
                f"Invalid audio of type {type(audio).__name__}: expected a file, or a tensor (ch, t) of "
                f"{codec.sample_rate:,} Hz, as in out.audios[0] or torch.from_numpy(array)."
            )
        if audio.ndim != 2 or not audio.shape[1] or audio.shape[0] not in (1, codec.channels):
            raise InvalidValue(f"Invalid audio of shape {tuple(audio.shape)}: expected (ch, t), as in out.audios[0].")
        audio = self._trimmed(audio.expand(codec.channels, -1), codec)
        source = EditMask.from_audio(codec, audio[None], target)
        edited = self.apply(source, codec)
        return edited, audio.shape[-1] + (edited.frames - source.frames) * codec.hop_length

    def _trimmed(self, audio: Tensor, codec: Codec) -> Tensor:
        """Return the audio (ch, t) that is encoded."""
        return audio


class Refine(Edit):
    """Keep some levels, 0 the coarsest, and generate the others: another performance of the same music."""

    name: Literal["refine"] = "refine"
    keep: tuple[int, ...] = Field(examples=[[0, 1]])

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all frames of these levels."""
        return source.keep(levels_mask(codec, self.keep))


class Inpaint(Edit):
    """Generate some regions again, each (start, stop) in seconds; with `levels`, only these of them."""

    name: Literal["inpaint"] = "inpaint"
    regions: tuple[tuple[float, float], ...] = Field(examples=[[(2, 3.5)]])
    levels: tuple[int, ...] | None = None

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all levels of the frames outside the regions, and the other levels inside."""
        outside = outside_mask(self.regions, codec, source.frames)
        return source.keep(outside if self.levels is None else outside | ~levels_mask(codec, self.levels))


class Extend(Edit):
    """Continue for some seconds after the end."""

    name: Literal["extend"] = "extend"
    seconds: float = Field(gt=0, le=3600, examples=[5])

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all codes, and append frames."""
        return source.keep(torch.tensor(True)).extend(math.ceil(self.seconds * codec.frame_rate))

    def _trimmed(self, audio: Tensor, codec: Codec) -> Tensor:
        """Return whole frames: the music continues where it stops, without the padding of its last frame."""
        return audio[:, : max(1, audio.shape[-1] // codec.hop_length) * codec.hop_length]


class Vary(Edit):
    """Generate a variation of the source: the closer to it the smaller the strength."""

    name: Literal["vary"] = "vary"
    strength: float = Field(gt=0, le=1, examples=[0.4])

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep nothing, and start every stage from noisy latents of the source."""
        return replace(source, strength=self.strength)


class Restore(Edit):
    """Keep the coarsest levels, as of audio that was coded with so many, and generate the finer ones."""

    name: Literal["restore"] = "restore"
    levels: int = Field(ge=1, examples=[3])

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all frames of the coarsest levels."""
        present = sorted(set(codec.levels))
        if self.levels >= len(present):
            raise InvalidValue(f"Invalid levels={self.levels}: this codec has {len(present)}: none is left to restore.")
        return source.keep(levels_mask(codec, present[: self.levels]))


AnyEdit = Annotated[Refine | Inpaint | Extend | Vary | Restore, Field(discriminator="name")]


def parse_levels(text: str) -> tuple[int, ...]:
    """Parse levels such as "0", "0-3" or "0,2". Raises ValueError for anything else."""
    try:
        return tuple(level for part in text.split(",") for level in parse_range(part))
    except ValueError:
        raise InvalidValue(f"Invalid levels '{text}': expected numbers and ranges, e.g. '0' or '0-3'.") from None


def levels_mask(codec: Codec, levels: Collection[int]) -> Tensor:
    """Return (1, k, 1), True for the codebooks of these levels. Raises ValueError for a level the codec lacks."""
    if unknown := sorted(set(levels) - set(codec.levels)):
        raise InvalidValue(
            f"Invalid level {', '.join(map(str, unknown))}: the codec has {min(codec.levels)} to {max(codec.levels)}."
        )
    return torch.tensor([level in levels for level in codec.levels])[None, :, None]


def outside_mask(regions: Sequence[tuple[float, float]], codec: Codec, frames: int) -> Tensor:
    """Return (1, 1, l), True for the frames that lie wholly outside all regions, each (start, stop) in seconds.

    Warns of a region that stops after the end. Raises ValueError for one that is empty, or that starts after the end.
    """
    frame = torch.arange(frames)
    seconds = frames / codec.frame_rate
    mask = torch.ones(frames, dtype=torch.bool)
    for start, stop in regions:
        if not (math.isfinite(start) and math.isfinite(stop) and 0 <= start < min(stop, seconds)):
            raise InvalidValue(
                f"Invalid region {start:g} to {stop:g} s: expected it to start before it ends, within {seconds:.2f} s."
            )
        if stop > seconds:
            warnings.warn(
                f"The audio ends at {seconds:.2f} s, and the region {start:g} to {stop:g} s is cut there. To continue "
                "the music past its end, use `extend`.",
                stacklevel=2,
            )
        first, last = (round(edge * codec.frame_rate, 6) for edge in (start, stop))  # 0.56 s at 50 Hz is frame 28
        mask &= (frame < math.floor(first)) | (frame >= math.ceil(last))
    return mask[None, None]
