"""Which parts of a track are encoded: segments of one length, without silence, at one loudness.

A level is the root mean square of all samples and channels that are encoded, in decibels relative to full scale (dBFS):
a square wave of amplitude 1 has 0 dBFS, a sine wave -3. Audio is streamed, so that segmenting a long track takes no
more memory than segmenting a short one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import ConfigDict, Field, PositiveFloat, ValidationError, model_validator
from torch import Tensor

from codecdiff.config import ConfigError
from codecdiff.config.schema import Config
from codecdiff.data.audio import MAX_SECONDS, BadAudio, seconds_of, stream_audio
from codecdiff.errors import InvalidValue, validation_issues
from codecdiff.interfaces.codec import Codec

SILENT = 1e-5  # amplitude, -100 dBFS: a lower level is silence, which no gain makes louder
MAX_GAIN = 100.0  # 40 dB


class SegmentConfig(Config):
    """How tracks are segmented before they are encoded. By default, each is one segment, unchanged.

    Attributes:
        segment: Seconds of a segment, rounded to whole latent frames. None keeps tracks whole.
        overlap: Seconds that a segment has in common with the one before it.
        min_seconds: Shorter segments are dropped: the end of a track, or all of one that is kept whole.
        silence: dBFS. Segments of a lower level are dropped. None keeps them.
        loudness: dBFS. Segments are brought to this level, by a gain of at most 40 dB at which no sample exceeds full
            scale; silence, below -100 dBFS, stays as it is. None leaves them unchanged.
        loudness_of: Whether one gain is computed for the whole track, which is then read twice, or one per segment.

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

    @classmethod
    def parse(cls, **options: Any) -> Self:
        """Validate options. Raises ConfigError with a sentence for each that is invalid."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            issues = [str(issue) if issue.place else issue.problem for issue in validation_issues(error)]
            raise ConfigError(f"Invalid segments: {'; '.join(issues)}.") from error

    @property
    def needs_level(self) -> bool:
        """Whether the level of each segment is needed."""
        return self.silence is not None or (self.loudness is not None and self.loudness_of == "segment")

    @property
    def overlap_factor(self) -> float:
        """Seconds that are encoded per second of a long track: more than 1 if segments overlap."""
        return self.segment / (self.segment - self.overlap) if self.segment else 1.0

    def samples(self, codec: Codec) -> tuple[int, int]:
        """Return the length of a segment, and the step from one to the next, in samples of whole latent frames.

        Raises ValueError if either is less than a frame.
        """
        assert self.segment is not None
        frames = [round(seconds * codec.frame_rate) for seconds in (self.segment, self.segment - self.overlap)]
        if min(frames) < 1:
            raise InvalidValue(
                f"Segments of {self.segment:g} s that overlap by {self.overlap:g} s advance by less than a latent "
                f"frame, which lasts {1 / codec.frame_rate:.3g} s."
            )
        return frames[0] * codec.hop_length, frames[1] * codec.hop_length


@dataclass(frozen=True)
class Segment:
    """A segment of a track."""

    index: int  # in the track, dropped segments included
    offset: float  # seconds
    audio: Tensor  # (ch, t)


def read_segments(
    file: Path,
    codec: Codec,
    config: SegmentConfig,
    dropped: Counter[str],
    report: Callable[[str], None] = lambda issue: None,
) -> Iterator[Segment]:
    """Yield the segments of a track to encode. Those that are too short or silent are counted in `dropped`.

    `report` is called as by `stream_audio`. Raises BadAudio as that does, and for a track that is kept whole and longer
    than MAX_SECONDS.
    """
    gain = _track_gain(file, codec, config)
    blocks = _read_blocks(file, codec, config, report)
    segments = split_blocks(blocks, *config.samples(codec)) if config.segment else [(0, 0, torch.cat([*blocks], 1))]
    for index, start, audio in segments:
        level = audio.double().square().mean().sqrt().item() if config.needs_level else 0.0
        if audio.shape[1] < round(config.min_seconds * codec.sample_rate):
            dropped["short"] += 1
        elif config.silence is not None and level < 10 ** (config.silence / 20):
            dropped["silent"] += 1
        else:
            if config.loudness is not None and config.loudness_of == "segment":
                gain = loudness_gain(config.loudness, level, audio.abs().max().item())
            yield Segment(index, start / codec.sample_rate, audio if gain == 1 else (gain * audio).clamp(-1, 1))


def loudness_gain(loudness: float, level: float, peak: float) -> float:
    """Return the gain that brings a level (amplitude) to a loudness (dBFS) without a peak over 1; 1 for silence.

    It is at most MAX_GAIN: what is quieter is the noise of silence.
    """
    return min(10 ** (loudness / 20) / level, 1 / peak, MAX_GAIN) if level > SILENT else 1.0


def _track_gain(file: Path, codec: Codec, config: SegmentConfig) -> float:
    if config.loudness is None or config.loudness_of != "track":
        return 1.0
    square, count, peak = 0.0, 0, 0.0
    for block in _read_blocks(file, codec, config, lambda issue: None):
        square, count = square + block.double().square().sum().item(), count + block.numel()
        peak = max(peak, block.abs().max().item())
    return loudness_gain(config.loudness, (square / count) ** 0.5, peak)


def _read_blocks(file: Path, codec: Codec, config: SegmentConfig, report: Callable[[str], None]) -> Iterator[Tensor]:
    """Yield blocks (ch, t) of a track. Raises BadAudio if it is too long to be encoded whole."""
    limit = float("inf") if config.segment else MAX_SECONDS * codec.sample_rate
    count = 0 if config.segment else seconds_of(file) * codec.sample_rate
    if count <= limit:
        count = 0
        for block in stream_audio(file, codec.sample_rate, codec.channels, report=report):
            count += block.shape[1]
            if count > limit:  # a stream may not declare its length
                break
            yield block
    if count > limit:
        raise BadAudio(f"'{file}' is longer than {MAX_SECONDS / 3600:g} h. Encode it in segments: --segment SECONDS.")


def split_blocks(blocks: Iterable[Tensor], length: int, step: int) -> Iterator[tuple[int, int, Tensor]]:
    """Split a stream of blocks (ch, t) into segments of `length` samples, one every `step` samples.

    Yields the index of each segment, its first sample and its audio. The last may be shorter, and always reaches beyond
    the end of the one before it.
    """
    buffer: list[Tensor] = []
    count = index = 0
    for block in blocks:
        buffer, count = [*buffer, block], count + block.shape[1]
        if count >= length:
            audio = torch.cat(buffer, 1)
            while audio.shape[1] >= length:
                yield index, index * step, audio[:, :length]
                audio, index = audio[:, step:], index + 1
            buffer, count = [audio], audio.shape[1]
    if count > (length - step if index else 0):
        yield index, index * step, torch.cat(buffer, 1)
