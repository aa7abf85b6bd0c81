"""Editing is sampling with some codes known: what is kept is a mask over (codebook, frame).

Refining keeps the coarse levels of all frames, inpainting all levels outside some regions, extending all levels of the
frames there are, restoring the levels that a recording was coded with. Varying keeps nothing, and starts from the
source under noise instead of noise alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from codecdiff.codecs import chunked
from codecdiff.config.schema import Config, Target
from codecdiff.diffusion.sampling import StageMask
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Splitter
from codecdiff.splitters import parse_range


@dataclass(frozen=True)
class EditMask:
    """What is known of takes before they are sampled.

    codes: (n, k, l).
    latents: (n, k, d, l), as the model diffuses them: entries of the codebooks or projections.
    kept: (n, k, l), True where the codes come back as they are.
    strength: how much of the noise of a generation the rest starts under, in (0, 1]; at 1 it is generated anew, and
        below, it resembles `latents`.
    """

    codes: Tensor
    latents: Tensor
    kept: Tensor
    strength: float = 1.0

    def __post_init__(self):
        n, k, frames = self.codes.shape
        for name, tensor, shape in (
            ("latents", self.latents, (n, k, self.latents.shape[2], frames)),
            ("kept", self.kept, (n, k, frames)),
        ):
            if tensor.shape != shape:
                raise ValueError(f"The {name} of {(n, k, frames)} codes are {shape}, not {tuple(tensor.shape)}.")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength}: ask for more than 0 and at most 1, which generates anew.")

    @classmethod
    def of_codes(cls, codec: Codec, codes: Tensor) -> EditMask:
        """Codes (n, k, l) as what is known, nothing kept yet."""
        return cls(codes, codec.embed(codes), torch.zeros_like(codes, dtype=torch.bool))

    @classmethod
    def of_latents(cls, codec: Codec, latents: Tensor) -> EditMask:
        """Latents (n, k, d, l) as what is known, nothing kept yet."""
        codes = codec.quantize(latents)
        return cls(codes, latents, torch.zeros_like(codes, dtype=torch.bool))

    @classmethod
    def of_audio(cls, codec: Codec, audio: Tensor, target: Target = "codes") -> EditMask:
        """Audio (n, ch, t) as what is known, nothing kept yet; `projections` are what its codes are quantised from."""
        local, audio = chunked(codec), audio.to(device_of(codec))
        if target == "continuous":
            codes, latents = local.encode_with_continuous(audio)
        else:
            codes = local.encode(audio)
            latents = codec.embed(codes)
        return cls(codes, latents, torch.zeros_like(codes, dtype=torch.bool))

    @property
    def frames(self) -> int:
        """Latent frames."""
        return self.codes.shape[-1]

    def keep(self, mask: Tensor) -> Self:
        """Keep the codes where a mask that broadcasts to (n, k, l) is True, and no others."""
        return replace(self, kept=mask.to(self.codes.device).expand(self.codes.shape))

    def varied(self, strength: float) -> Self:
        """Start what is not kept from the latents under noise."""
        return replace(self, strength=strength)

    def rows(self, index: Sequence[int]) -> Self:
        """Select takes."""
        return replace(self, codes=self.codes[index], latents=self.latents[index], kept=self.kept[index])

    def repeated(self, count: int) -> Self:
        """Give every take so many times, one after the other."""
        return self.rows([i for i in range(len(self.codes)) for _ in range(count)])

    def extended(self, frames: int) -> Self:
        """Append frames of which nothing is known."""
        longer = (0, frames)
        return replace(
            self, codes=pad(self.codes, longer), latents=pad(self.latents, longer), kept=pad(self.kept, longer)
        )

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        return replace(self, codes=self.codes.to(device), latents=self.latents.to(device), kept=self.kept.to(device))


class Edit(Config, ABC):
    """A way to keep some of a source. Its fields are all that has to be known to do it again."""

    @abstractmethod
    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Say what is kept of the source. Raises ValueError if that makes no sense for it."""


class Refine(Edit):
    """Keep some levels, 0 the coarsest, and make the others anew: another performance of the same piece."""

    name: Literal["refine"] = "refine"
    keep: tuple[int, ...]

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all frames of these levels."""
        return source.keep(of_levels(codec, self.keep))


class Inpaint(Edit):
    """Make what lies in some regions anew, each (start, stop) in seconds."""

    name: Literal["inpaint"] = "inpaint"
    regions: tuple[tuple[float, float], ...]

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all levels of the frames outside the regions."""
        return source.keep(outside(self.regions, codec, source.frames))


class Extend(Edit):
    """Go on for some seconds after the end."""

    name: Literal["extend"] = "extend"
    seconds: float = Field(gt=0, le=3600)

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all there is, and append frames."""
        return source.keep(torch.tensor(True)).extended(math.ceil(self.seconds * codec.frame_rate))


class Vary(Edit):
    """Make something like the source: nearer to it the smaller the strength."""

    name: Literal["vary"] = "vary"
    strength: float = Field(gt=0, le=1)

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep nothing, and start every stage from the source under noise."""
        return source.varied(self.strength)


class Restore(Edit):
    """Keep the coarsest levels, as of a recording that was coded with so many, and make the finer ones."""

    name: Literal["restore"] = "restore"
    levels: int = Field(ge=1)

    def apply(self, source: EditMask, codec: Codec) -> EditMask:
        """Keep all frames of the coarsest levels."""
        present = sorted(set(codec.levels))
        if self.levels >= len(present):
            raise ValueError(f"levels={self.levels}: this codec has {len(present)}, so there is nothing to restore.")
        return source.keep(of_levels(codec, present[: self.levels]))


AnyEdit = Annotated[Refine | Inpaint | Extend | Vary | Restore, Field(discriminator="name")]


def parse_levels(text: str) -> tuple[int, ...]:
    """Read levels such as "0", "0-3" or "0,2". Raises ValueError for anything else."""
    try:
        return tuple(level for part in text.split(",") for level in parse_range(part))
    except ValueError:
        raise ValueError(f"'{text}' names no levels. Write numbers and ranges, as in '0' or '0-3'.") from None


def of_levels(codec: Codec, levels: Collection[int]) -> Tensor:
    """Give (1, k, 1), True for the codebooks of these levels. Raises ValueError for a level the codec lacks."""
    if unknown := sorted(set(levels) - set(codec.levels)):
        raise ValueError(
            f"The codec has no level {', '.join(map(str, unknown))}: it has {min(codec.levels)} to {max(codec.levels)}."
        )
    return torch.tensor([level in levels for level in codec.levels])[None, :, None]


def of_first_stage(splitter: Splitter, codec: Codec) -> Tensor:
    """Give (1, k, 1), True for the codebooks that the first stage of a pattern makes."""
    rows = torch.arange(1, codec.num_codebooks + 1)
    made = splitter.split(rows[None, :, None, None].expand(1, -1, codec.codebook_dim, 1))[0]
    return torch.isin(rows, made)[None, :, None]


def of_first_stages(splitter: Splitter, codec: Codec, frames: int, count: int) -> Tensor:
    """Give (1, k, l), True for the codes that the first `count` stages of a pattern make, whatever the pattern."""
    shape = (1, codec.num_codebooks, codec.codebook_dim, frames)
    stages = splitter.split(torch.ones(shape))
    made = [stage if i < count else torch.zeros_like(stage) for i, stage in enumerate(stages)]
    return splitter.merge(made).amin(2) > 0


def outside(regions: Sequence[tuple[float, float]], codec: Codec, frames: int) -> Tensor:
    """Give (1, 1, l), True for the frames that lie wholly outside all regions, each (start, stop) in seconds.

    Raises ValueError for a region that is empty, or that lies past the end.
    """
    frame = torch.arange(frames)
    seconds = frames / codec.frame_rate
    mask = torch.ones(frames, dtype=torch.bool)
    for start, stop in regions:
        if not (math.isfinite(start) and math.isfinite(stop) and 0 <= start < min(stop, seconds)):
            raise ValueError(
                f"There is nothing from {start:g} to {stop:g} s: a region starts before it ends, in {seconds:.2f} s."
            )
        first, last = (round(edge * codec.frame_rate, 6) for edge in (start, stop))  # 0.56 s at 50 Hz is frame 28
        first, last = math.floor(first), math.ceil(last)
        mask &= (frame < first) | (frame >= last)
    return mask[None, None]


def known_in_stages(known: EditMask, splitter: Splitter) -> list[StageMask]:
    """Give what is known of every stage. The padding of a pattern is neither kept nor missing."""
    kept = known.kept[:, :, None].expand(known.latents.shape).to(known.latents)
    stages = zip(*map(splitter.split, (known.latents, kept, 1 - kept)), strict=True)
    return [StageMask(clean, mask > 0, not bool(made.any()), known.strength) for clean, mask, made in stages]
