"""Loudness after ITU-R BS.1770, and a limiter that looks ahead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import sosfilt

Audio = NDArray[np.float32]
SAMPLE_RATE = 44_100  # Hz
# The two filters of K-weighting, designed at 44.1 kHz by the bilinear transform of the standard's at 48 kHz.
K_WEIGHTING = np.array(
    [
        [1.5308412300503478, -2.6509799951547297, 1.1690790799215869, 1.0, -1.6636551132560204, 0.7125954280732254],
        [1.0, -2.0, 1.0, 1.0, -1.9891696736297957, 0.9891990357870394],
    ]
)
LOOK_AHEAD = 220  # samples, 5 ms


def loudness(audio: Audio) -> float:
    """Return the loudness of mono audio (t,) in LUFS, without gates: -120 for silence."""
    weighted = np.asarray(sosfilt(K_WEIGHTING, audio))
    return -0.691 + 10 * float(np.log10(np.mean(weighted**2) + 1e-12))


def limited(audio: Audio, highest: float) -> Audio:
    """Turn peaks above `highest` down, smoothly, from 5 ms before until 5 ms after them -> (t,) audio."""
    gain = np.minimum(1, highest / np.maximum(np.abs(audio), 1e-9))
    lowest = minimum_filter1d(gain, 2 * LOOK_AHEAD + 1)
    return (audio * uniform_filter1d(lowest, LOOK_AHEAD)).astype(np.float32)
