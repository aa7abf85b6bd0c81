"""Log-mel features of audio: what the embedder `logmel`, spectrogram plots and the check of edits compute.

Shapes: n clips of t audio samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue

__all__ = ["FRAMES_PER_SECOND", "frame_change", "log_mel", "mel_filterbank", "window_features"]

NUM_BANDS = 32
LOWEST, HIGHEST = 40.0, 16_000.0  # Hz, edges of the mel bands; the highest is at most half the sample rate
FRAMES_PER_SECOND = 100
FFT_SECONDS = 0.046  # of audio under one spectral frame, rounded to a power of two samples
FLOOR = 1e-7  # power added before the logarithm: 70 dB under full scale, so digital silence is not an outlier
WINDOW_SECONDS = 1.0  # windows overlap by half
CLIPS_AT_ONCE = 8  # bounds the memory of the spectrograms


def mel(hertz: Tensor) -> Tensor:
    """Frequency in Hz -> mel, 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    return 2595 * torch.log10(1 + hertz / 700)


def mel_filterbank(sample_rate: int, fft_size: int, num_bands: int = NUM_BANDS) -> Tensor:
    """Triangles of height one, evenly spaced in mel, each reaching to its neighbors' centers: (bands, bins)."""
    edges = mel(torch.tensor([LOWEST, min(HIGHEST, sample_rate / 2)], dtype=torch.float64))
    corners = torch.linspace(float(edges[0]), float(edges[1]), num_bands + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, sample_rate / 2, fft_size // 2 + 1, dtype=torch.float64))
    low, center, high = (corners[i : i + num_bands, None] for i in range(3))
    return torch.minimum((bins - low) / (center - low), (high - bins) / (high - center)).clamp(min=0)


def log_mel(audio: Tensor, sample_rate: int, *, num_bands: int = NUM_BANDS) -> Tensor:
    """(n, t) audio -> (n, bands, frames) natural log of mel band power, `FRAMES_PER_SECOND`, float32.

    Power is relative to the square of the window's sum, so it does not depend on the sample rate.
    """
    fft_size = 2 ** round(math.log2(FFT_SECONDS * sample_rate))
    if audio.shape[-1] <= fft_size // 2:
        raise InvalidValue(
            f"A spectrogram needs more than {fft_size // 2} samples of audio, but got {audio.shape[-1]}."
        )
    window = torch.hann_window(fft_size, device=audio.device)
    spectrum = torch.stft(
        audio.float(),
        fft_size,
        round(sample_rate / FRAMES_PER_SECOND),
        window=window / window.sum(),
        return_complex=True,
    )
    filters = mel_filterbank(sample_rate, fft_size, num_bands).to(spectrum.device, torch.float32)
    return torch.log(filters @ spectrum.abs().square() + FLOOR)


def frame_change(audio: Tensor, sample_rate: int) -> Tensor:
    """(n, t) audio -> (n, frames - 1) how much the spectrum changes from each frame to the next.

    The mean over 32 bands of the absolute difference of log-mel power, `FRAMES_PER_SECOND`: an edit whose seams are
    audible changes more at its edges than music does there.
    """
    return log_mel(audio, sample_rate).diff(dim=-1).abs().mean(1)


def window_features(audio: Tensor, sample_rate: int) -> Tensor:
    """(n, t) audio -> (n, windows, 64) float64: mean and deviation over time of 32 log-mel bands.

    Windows last one second and overlap by half; five seconds have nine.
    """
    if audio.ndim != 2:
        raise ValueError(f"Features are taken of mono clips, (n, t), but got shape {tuple(audio.shape)}.")
    if audio.shape[-1] < WINDOW_SECONDS * sample_rate:
        seconds = audio.shape[-1] / sample_rate
        raise InvalidValue(
            f"Features need at least {WINDOW_SECONDS:g} s of audio, but got {seconds:.2f} s: take longer clips."
        )
    length = round(WINDOW_SECONDS * FRAMES_PER_SECOND)

    def features(clips: Tensor) -> Tensor:
        windows = log_mel(clips, sample_rate).double().unfold(2, length, length // 2)  # (n, 32, windows, frames)
        return torch.cat([windows.mean(3), windows.std(3, correction=0)], dim=1).transpose(1, 2)

    return torch.cat([features(clips) for clips in audio.split(CLIPS_AT_ONCE)])
