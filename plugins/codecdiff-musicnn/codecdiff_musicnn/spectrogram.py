"""The log-mel spectrograms that musicnn was trained on: 96 bands, 62.5 frames a second of audio at 16 kHz.

Source: McFee et al. (2015), librosa: Audio and music signal analysis in Python, for the mel scale and its filters;
Slaney (1998), Auditory Toolbox.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE = 16_000  # Hz
HOP_LENGTH, FFT_SIZE, NUM_BANDS = 256, 512, 96
COMPRESSION = 10_000  # the logarithm is that of 1 + 10,000 times power
LINEAR_HERTZ, LINEAR_MELS = 1000.0, 15.0  # the mel scale is linear up to here, and logarithmic above
LOG_STEP = math.log(6.4) / 27  # of a mel above


class LogMelSpectrogram(nn.Module):
    """Audio -> log-mel spectrogram, rounded as the authors' is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(FFT_SIZE), persistent=False)
        self.register_buffer("filters", slaney_filterbank(SAMPLE_RATE, FFT_SIZE, NUM_BANDS).float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(b, t) audio at 16 kHz -> (b, 1 + t // 256, 96). Frames are centered; zeros surround the audio."""
        padded = functional.pad(audio, (FFT_SIZE // 2, FFT_SIZE // 2))
        window: Tensor = self.window  # pyright: ignore[reportAssignmentType]
        filters: Tensor = self.filters  # pyright: ignore[reportAssignmentType]
        spectrum = torch.stft(padded, FFT_SIZE, HOP_LENGTH, window=window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()  # (b, bins, frames)
        return compress((filters @ power).transpose(1, 2))


def compress(power: Tensor) -> Tensor:
    """Power of mel bands -> log10(1 + 10,000 power), rounded to half precision after every step.

    The authors compute it in half precision, where 10,000 times a power over 6.5, as of bass in loud music, becomes
    infinite; here it keeps its size.
    """
    scaled = round_to_half(COMPRESSION * round_to_half(power))
    return round_to_half(torch.log10(round_to_half(scaled + 1)))


def round_to_half(x: Tensor) -> Tensor:
    """Round float32 to the nearest number of half precision; one that is too large for that stays as it is."""
    rounded = x.half().float()
    return torch.where(rounded.isinf(), x, rounded)


def slaney_filterbank(sample_rate: int, fft_size: int, num_bands: int) -> Tensor:
    """Triangles of equal area, evenly spaced in mel from 0 Hz to half the sample rate: (bands, bins) float64."""
    highest = hertz_to_mel(sample_rate / 2)
    edges = mel_to_hertz(torch.linspace(0, highest, num_bands + 2, dtype=torch.float64))  # Hz
    low, middle, high = (edges[i : i + num_bands, None] for i in range(3))
    bins = torch.linspace(0, sample_rate / 2, fft_size // 2 + 1, dtype=torch.float64)
    triangles = torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp(min=0)
    return triangles * 2 / (high - low)


def hertz_to_mel(hertz: float) -> float:
    """Frequency in Hz -> mel of the Auditory Toolbox, for frequencies of at least 1000 Hz."""
    return LINEAR_MELS + math.log(hertz / LINEAR_HERTZ) / LOG_STEP


def mel_to_hertz(mels: Tensor) -> Tensor:
    """Mel of the Auditory Toolbox -> frequency in Hz."""
    linear = mels * LINEAR_HERTZ / LINEAR_MELS
    return torch.where(mels < LINEAR_MELS, linear, LINEAR_HERTZ * torch.exp(LOG_STEP * (mels - LINEAR_MELS)))
