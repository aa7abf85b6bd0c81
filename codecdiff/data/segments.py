"""Which pieces of a recording are encoded: segments of one length, without silence, at one loudness.

A level is the root mean square of all samples and channels that the codec is to hear, in decibels relative to full
scale (dBFS): a square wave of amplitude 1 has 0 dBFS, a sine -3. Audio is streamed, so that cutting a long recording
takes no more memory than cutting a short one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import ConfigDict, Field, PositiveFloat, ValidationError, model_validator
from torch import Tensor

from codecdiff.config import ConfigError
from codecdiff.config.schema import Config
from codecdiff.data.audio import BadAudio, seconds_of, stream_audio
from codecdiff.interfaces import Codec

LONGEST = 3600.0  # seconds of a recording that is encoded in one piece


class Segmentation(Config):
    """How recordings are cut before they are encoded; unless told otherwise, each is one piece as it is.

    segment: seconds of a piece, rounded to whole latent frames; None keeps recordings whole.
    overlap: seconds that a piece shares with the one before it.
    min_seconds: shorter pieces are dropped: the end of a recording, or all of one that is not cut.
    silence: dBFS; pieces of a lower level are dropped. None keeps them.
    loudness: dBFS that pieces are brought to, by a gain at which no sample exceeds full scale. None leaves them.
    loudness_of: whether the gain is one for the whole recording, which is then read twice, or each piece's own.
    """

    model_config = ConfigDict(frozen=True)

    segment: PositiveFloat | None = None
    overlap: float = Field(default=0, ge=0)
    min_seconds: float = Field(default=0, ge=0)
    silence: float | None = Field(default=None, le=0, allow_inf_nan=False)
    loudness: float | None = Field(default=None, le=0, allow_inf_nan=False)
    loudness_of: Literal["track", "segment"] = "track"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap and self.overlap >= (self.segment or 0):
            raise ValueError(f"an overlap of {self.overlap:g} s needs segments that are longer")
        if self.segment and self.min_seconds > self.segment:
            raise ValueError(f"segments of {self.segment:g} s are all shorter than min_seconds={self.min_seconds:g}")
        return self

    @property
    def measures(self) -> bool:
        """Whether the level of each piece has to be known."""
        return self.silence is not None or (self.loudness is not None and self.loudness_of == "segment")

    @property
    def share(self) -> float:
        """Seconds that are encoded per second of a long recording: more than 1 where segments overlap."""
        return self.segment / (self.segment - self.overlap) if self.segment else 1.0

    def samples(self, codec: Codec) -> tuple[int, int]:
        """Give the length of a segment and the step from one to the next, in audio samples, whole latent frames both.

        Raises ValueError if segments are shorter than a frame or do not advance by one.
        """
        assert self.segment is not None
        frames = [round(seconds * codec.frame_rate) for seconds in (self.segment, self.segment - self.overlap)]
        if min(frames) < 1:
            raise ValueError(
                f"Segments of {self.segment:g} s that overlap by {self.overlap:g} s advance by less than a latent "
                f"frame, which lasts {1 / codec.frame_rate:.3g} s."
            )
        return frames[0] * codec.hop_length, frames[1] * codec.hop_length


def segmentation(**options: Any) -> Segmentation:
    """Give the rules of these options. Raises ConfigError with a sentence for each that cannot be."""
    try:
        return Segmentation(**options)
    except ValidationError as error:
        faults = [f"{' '.join(map(str, fault['loc']))} {fault['msg']}".strip() for fault in error.errors()]
        raise ConfigError(f"Audio cannot be cut so: {'; '.join(faults)}.") from error


class Segment(NamedTuple):
    """A piece of a recording: its number, counting those that were dropped, where it begins and its audio (ch, t)."""

    number: int
    offset: float  # seconds
    audio: Tensor


def segments(file: Path, codec: Codec, rules: Segmentation, dropped: Counter[str]) -> Iterator[Segment]:
    """Yield the pieces of a recording that are to be encoded; count in `dropped` those that are too short or silent.

    Raises BadAudio as `stream_audio` does, and for a recording that is not cut and longer than an hour.
    """
    gain = _track_gain(file, codec, rules)
    for number, start, audio in _pieces(file, codec, rules):
        level = audio.double().square().mean().sqrt().item() if rules.measures else 0.0
        if audio.shape[1] < round(rules.min_seconds * codec.sample_rate):
            dropped["short"] += 1
        elif rules.silence is not None and level < 10 ** (rules.silence / 20):
            dropped["silent"] += 1
        else:
            if rules.loudness is not None and rules.loudness_of == "segment":
                gain = gain_to(rules.loudness, level, audio.abs().max().item())
            yield Segment(number, start / codec.sample_rate, audio if gain == 1 else (gain * audio).clamp(-1, 1))


def gain_to(loudness: float, level: float, peak: float) -> float:
    """Give the gain that brings a level (amplitude) to a loudness (dBFS) without a peak over 1; 1 for silence."""
    return min(10 ** (loudness / 20) / level, 1 / peak) if level else 1.0


def _track_gain(file: Path, codec: Codec, rules: Segmentation) -> float:
    if rules.loudness is None or rules.loudness_of != "track":
        return 1.0
    square, count, peak = 0.0, 0, 0.0
    for block in _bounded(file, codec, rules):
        square, count = square + block.double().square().sum().item(), count + block.numel()
        peak = max(peak, block.abs().max().item())
    return gain_to(rules.loudness, (square / count) ** 0.5, peak)


def _pieces(file: Path, codec: Codec, rules: Segmentation) -> Iterator[tuple[int, int, Tensor]]:
    blocks = _bounded(file, codec, rules)
    return cut(blocks, *rules.samples(codec)) if rules.segment else iter([(0, 0, torch.cat(list(blocks), 1))])


def _bounded(file: Path, codec: Codec, rules: Segmentation) -> Iterator[Tensor]:
    """Yield blocks of a recording (ch, t). Raises BadAudio if it is longer than what may be encoded in one piece."""
    most = float("inf") if rules.segment else LONGEST * codec.sample_rate
    count = 0 if rules.segment else seconds_of(file) * codec.sample_rate
    if count <= most:
        count = 0
        for block in stream_audio(file, codec.sample_rate, codec.channels):
            count += block.shape[1]
            if count > most:  # a stream need not say how long it is
                break
            yield block
    if count > most:
        raise BadAudio(f"'{file}' is longer than {LONGEST / 3600:g} h. Encode it in pieces: --segment SECONDS.")


def cut(blocks: Iterable[Tensor], length: int, step: int) -> Iterator[tuple[int, int, Tensor]]:
    """Cut a stream of blocks (ch, t) into pieces of `length` samples, one every `step`; yield number, start and piece.

    The last may be shorter. There is none that lies in the one before it.
    """
    held: list[Tensor] = []
    count = number = 0
    for block in blocks:
        held, count = [*held, block], count + block.shape[1]
        if count >= length:
            whole = torch.cat(held, 1)
            while whole.shape[1] >= length:
                yield number, number * step, whole[:, :length]
                whole, number = whole[:, step:], number + 1
            held, count = [whole], whole.shape[1]
    if count > (length - step if number else 0):
        yield number, number * step, torch.cat(held, 1)
