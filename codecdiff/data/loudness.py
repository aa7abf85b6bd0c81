"""The level of generated audio: as loud as streaming services play music, and without peaks over full scale.

Loudness is measured as ITU-R BS.1770-4 defines it, and true peaks at four times the sample rate, as its Annex 2 does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.functional import pad

from codecdiff import stand_ins
from codecdiff.errors import InvalidValue

with stand_ins({"scipy.signal": ModuleType("scipy.signal")}):  # `_filtered` stands in for it
    from pyloudnorm import Meter

__all__ = ["integrated_loudness", "make_playable", "true_peak"]

HIGHEST = 10 ** (-1 / 20)  # amplitude of a true peak of -1 dBTP
MAX_LIMITING = 2.0  # factor, 6 dB, by which the limiter lowers the highest peak; audio that needs more stays softer
NOTABLE_GAIN = 10 ** (-0.5 / 20)  # -0.5 dB: an edit that is lowered by more is worth saying
MAX_GAIN = 100.0  # 40 dB: what is softer is noise rather than music
SILENT = 1e-4  # amplitude, -80 dBFS
LOOK_AHEAD_S = 0.005
OVERSAMPLING = 4


def integrated_loudness(audio: Tensor, sample_rate: int) -> float:
    """Return the loudness of audio (ch, t) in LUFS, -inf for silence; shorter audio than 0.4 s is a single block."""
    samples = audio[:5].T.double().numpy()  # the standard weights up to five channels
    block_s = min(0.4, (len(samples) - 0.5) / sample_rate)
    unfiltered = Meter(sample_rate, block_size=block_s)
    filters, unfiltered._filters = unfiltered._filters, {}
    return float(unfiltered.integrated_loudness(_filtered(samples, sample_rate, filters)))


def _filtered(samples: np.ndarray, sample_rate: int, filters: Mapping[str, Any]) -> np.ndarray:
    """Apply the weighting filters of pyloudnorm to audio (t, ch): blocks of it, by their spectra.

    Each is filtered with the second before it, after which the impulse responses are below the precision of float64.
    """
    step = sample_rate * min(15, -(-len(samples) // sample_rate))
    size = sample_rate + step
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(delay)
    for each in filters.values():
        response *= each.passband_gain * np.polyval(each.b[::-1], delay) / np.polyval(each.a[::-1], delay)
    padded = np.concatenate([np.zeros((sample_rate, samples.shape[1])), samples])
    filtered = np.empty_like(samples)
    for start in range(0, len(samples), step):
        block = np.fft.irfft(np.fft.rfft(padded[start : start + size], size, axis=0) * response[:, None], size, axis=0)
        filtered[start : start + step] = block[sample_rate:][: len(samples) - start]
    return filtered


def true_peak(audio: Tensor) -> Tensor:
    """Return the highest magnitude (t,) at and after every sample of audio (ch, t), over all channels."""
    samples = audio.T.contiguous().numpy()
    levels = np.zeros(OVERSAMPLING * len(samples), np.float32)
    between = np.abs(soxr.resample(samples, 1, OVERSAMPLING)).max(1)[: len(levels)]
    levels[: len(between)] = between
    return torch.maximum(torch.from_numpy(levels.reshape(-1, OVERSAMPLING).max(1)), audio.abs().amax(0))


def make_playable(
    audio: Tensor, sample_rate: int, loudness: float | Literal["off"] | None, is_new: Tensor | None = None
) -> Tensor:
    """Return decoded audio (ch, t) in [-1, 1], at a loudness in LUFS and with true peaks of at most -1 dBTP.

    Peaks are limited by at most 6 dB; audio that would need more stays softer than requested. With None, as of an edit,
    the level is kept: of audio that would clip, peaks where it `is_new` (t,) are limited, and all is lowered if others
    are above full scale. With "off" it is clipped. Warns of audio that is silent, lowered or clipped. Raises
    InvalidValue for NaN and infinite samples.
    """
    if not audio.isfinite().all():
        raise InvalidValue(
            "The generated audio has NaN or infinite samples. Load the model in float32, lower guidance_scale, or "
            "check that its training did not diverge."
        )
    if (peak := audio.abs().max()) < SILENT:
        warnings.warn("The generated audio is silent. Try another seed or prompt.", stacklevel=3)
    elif isinstance(loudness, float | int):
        gain = 10 ** ((loudness - integrated_loudness(audio, sample_rate)) / 20)  # inf below the meter's gate
        gain = min(gain, MAX_GAIN, MAX_LIMITING * HIGHEST / float(true_peak(audio).max()))
        audio = _limit(gain * audio, sample_rate)
    elif peak > 1 and loudness is None:
        is_new = torch.zeros(audio.shape[1], dtype=torch.bool) if is_new is None else is_new
        highest = torch.where(is_new, HIGHEST, 1.0)
        gain = 1 / max(1.0, float((true_peak(audio) / highest / torch.where(is_new, MAX_LIMITING, 1.0)).max()))
        if gain < NOTABLE_GAIN:
            lowered = f"{-20 * math.log10(gain):.1f} dB"
            warnings.warn(f"The whole audio is turned down by {lowered}: otherwise it would clip.", stacklevel=3)
        audio = _limit(gain * audio, sample_rate, highest)
    elif (clipped := (audio.abs() > 1).double().mean()) >= 5e-5:  # 0.01 %, as written
        warnings.warn(f"{clipped:.2%} of the generated samples exceed full scale and are clipped.", stacklevel=3)
    return audio.clamp(-1, 1)


def _limit(audio: Tensor, sample_rate: int, highest: float | Tensor = HIGHEST) -> Tensor:
    """Lower the parts of audio (ch, t) around true peaks of more than `highest` (t,), smoothly, from 5 ms before."""
    gain = (highest / true_peak(audio)).clamp(max=1.0)
    half = round(LOOK_AHEAD_S * sample_rate / 2)
    lowest = _moving_minimum(pad(gain, (3 * half, 3 * half), value=1.0), 4 * half + 1)
    limited = audio * _moving_mean(lowest, 2 * half + 1)
    return limited * (highest / true_peak(limited)).min().clamp(max=1.0)  # smoothing leaves a few hundredths of a dB


def _moving_minimum(values: Tensor, size: int) -> Tensor:
    """(t,) -> (t - size + 1,) the lowest of every `size` neighbors, from windows that double in width."""
    width = 1  # scipy.ndimage has this too, and takes an eighth of a second to import
    while 2 * width <= size:
        values, width = torch.minimum(values[:-width], values[width:]), 2 * width
    remainder = size - width
    return torch.minimum(values[: len(values) - remainder], values[remainder:])


def _moving_mean(values: Tensor, size: int) -> Tensor:
    """(t,) -> (t - size + 1,) the mean of every `size` neighbors."""
    sums = pad(values.double().cumsum(0), (1, 0))
    return ((sums[size:] - sums[:-size]) / size).to(values.dtype)
