"""Magnitudes to audio: the short-time Fourier transform of the starter codec and its phase retrieval.

Spectra are (b, f, l): batch, frequency bin, frame. Frame i is centered on the middle of the i-th block of
`HOP` samples, so l frames stand for exactly l * HOP samples.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

WINDOW = 2048  # audio samples per frame
HOP = 512  # audio samples between frames
NUM_BINS = WINDOW // 2 + 1
MARGIN = (WINDOW - HOP) // 2  # audio samples by which the first frame starts before the audio
MOMENTUM = 0.99


def spectrum(audio: Tensor) -> Tensor:
    """(b, l * HOP) audio -> (b, f, l) complex short-time spectrum, silence assumed on both sides."""
    return torch.stft(
        pad(audio, (MARGIN, MARGIN)), WINDOW, HOP, window=_window(audio), center=False, return_complex=True
    )


def audio_of(spectra: Tensor) -> Tensor:
    """(b, f, l) complex spectra -> (b, l * HOP) audio whose `spectrum` is nearest (Griffin & Lim 1984, Eq. 6)."""
    frames = torch.fft.irfft(spectra.mT, WINDOW)
    window = _window(frames)
    weight = overlap_add((window**2).expand(1, frames.shape[1], WINDOW))
    return (overlap_add(frames * window) / weight)[:, MARGIN:-MARGIN]


def retrieve_phases(magnitudes: Tensor, iterations: int) -> Tensor:
    """(b, f, l) magnitudes -> (b, l * HOP) audio whose short-time magnitudes are near them.

    The fast Griffin-Lim algorithm (Perraudin, Balazs & Søndergaard 2013) from `sinusoidal_phases`. There is
    no randomness, and no row depends on another.
    """
    magnitudes = magnitudes.mT.contiguous().mT  # the bins of a frame side by side, as those of `spectrum` are
    consistent = previous = torch.polar(magnitudes, sinusoidal_phases(magnitudes))
    for i in range(iterations):
        projected = spectrum(audio_of(consistent))
        moved = projected + MOMENTUM * (projected - previous) if i else projected
        consistent = magnitudes * moved / moved.abs().clamp(min=1e-9)
        previous = projected
    return audio_of(consistent)


def sinusoidal_phases(magnitudes: Tensor) -> Tensor:
    """(b, f, l) magnitudes -> (b, f, l) phases in radians, as if every spectral peak were a steady sinusoid.

    Single-pass spectrogram inversion (Beauregard, Harish & Wyse 2015): each frame, the bins around a peak take the
    phase that its bin had one frame before, advanced by the peak's interpolated frequency. The phase at a
    window's center is shared by all bins of a peak; counted from the window's start their signs alternate.
    """
    bins = torch.arange(magnitudes.shape[1], device=magnitudes.device)[:, None]
    peaks, frequencies = spectral_peaks(magnitudes)
    advances = (frequencies * HOP / WINDOW).unbind(2)  # cycles per frame
    cycles = [torch.zeros_like(advances[0])]
    for peak, advance in zip(peaks.unbind(2), advances, strict=True):
        cycles.append((cycles[-1].gather(1, peak) + advance) % 1.0)
    return 2 * math.pi * torch.stack(cycles[1:], dim=2) - math.pi * (bins % 2)


def spectral_peaks(magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """(b, f, l) magnitudes -> bin of the nearest peak and its interpolated frequency in bins, both (b, f, l).

    The frequency is the vertex of the parabola through three log magnitudes. A bin of a frame without
    peaks counts as its own.
    """
    bins = torch.arange(magnitudes.shape[1], device=magnitudes.device)[:, None].expand_as(magnitudes)
    logs = magnitudes.clamp(min=1e-8).log()
    below, here, above = logs[:, :-2], logs[:, 1:-1], logs[:, 2:]
    is_peak = pad((here > below) & (here >= above), (0, 0, 1, 1))
    vertex = 0.5 * (below - above) / (below - 2 * here + above).clamp(max=-1e-6)
    nearest = _nearest(is_peak, bins)
    offset = torch.where(is_peak, pad(vertex.clamp(-0.5, 0.5), (0, 0, 1, 1)), 0.0)
    return nearest, nearest + offset.gather(1, nearest)


def _nearest(is_peak: Tensor, bins: Tensor) -> Tensor:
    """Return the bin of the peak nearest to every bin, (b, f, l); the bin itself where there is none."""
    far = 4 * bins.shape[1]
    lower = bins.masked_fill(~is_peak, -far).cummax(1).values
    upper = bins.masked_fill(~is_peak, far).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(bins - lower <= upper - bins, lower, upper)
    return torch.where((nearest < 0) | (nearest >= bins.shape[1]), bins, nearest)


def overlap_add(frames: Tensor) -> Tensor:
    """(b, l, WINDOW) frames -> (b, t) their sum, each HOP samples after the one before."""
    blocks = frames.unflatten(2, (-1, HOP)).unbind(2)  # a frame spans so many hops
    total = frames.new_zeros(len(frames), frames.shape[1] + len(blocks) - 1, HOP)
    for i, block in enumerate(blocks):
        total[:, i : i + block.shape[1]] += block
    return total.flatten(1)


def _window(like: Tensor) -> Tensor:
    return torch.hann_window(WINDOW, dtype=like.dtype, device=like.device)
