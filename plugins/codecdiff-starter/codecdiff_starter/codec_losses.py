"""What the trained codec is trained on: how far decoded audio is from the original, and how its codebooks move.

Shapes: b batch, t audio sample, n frame, f frequency bin, s mel band, d codebook dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.codecs import nearest_vectors
from codecdiff_starter.codec import kmeans
from codecdiff_starter.codec_network import SAMPLE_RATE, CodecNetwork, mel_bands

SHORT_WINDOWS = {256: 16, 512: 32, 1024: 64}  # audio samples -> mel bands
LONG_WINDOWS = {2048: 128, 4096: 160}
MEL_FLOOR = 1e-7  # power; a full-scale sine has window / 6
BIN_FLOOR = 1e-6
PHASE_LIMIT = 2000.0  # Hz; phases above it are almost free: no code could carry them, and no ear misses them
FREQUENCY_WEIGHT = 1500.0  # Hz; bins above it count less, since most bins are there
DECIBELS = 10 / 2.302585  # per unit of natural log power


class Resolution(nn.Module):
    """The distance of two signals through windows of one length, in five terms."""

    window: Tensor
    mel: Tensor
    bin_weights: Tensor
    phase_weights: Tensor

    def __init__(self, window: int, num_bands: int) -> None:
        super().__init__()
        self.hop, self.has_phase = window // 4, window >= 1024
        mel = mel_bands(num_bands, window)
        hertz = torch.linspace(0, SAMPLE_RATE / 2, window // 2 + 1)
        weights = 1 / (1 + hertz / FREQUENCY_WEIGHT)
        self.register_buffer(
            "window", torch.hann_window(window) / (0.375 * window) ** 0.5
        )  # white noise keeps its power
        self.register_buffer("mel", mel / mel.sum(1, keepdim=True))
        self.register_buffer("bin_weights", weights / weights.mean())
        self.register_buffer("phase_weights", 1 / (1 + (hertz / PHASE_LIMIT) ** 4))

    def spectrum(self, audio: Tensor) -> Tensor:
        """(b, t) audio -> (b, n, f) complex spectrum."""
        margin = len(self.window) // 2
        return torch.fft.rfft(
            functional.pad(audio, (margin, margin)).unfold(1, len(self.window), self.hop) * self.window
        )

    def forward(self, decoded: Tensor, original: Tensor) -> dict[str, Tensor]:
        """(b, t) decoded and original audio -> their distance in mel bands, bins, energy and phases.

        mel: mean absolute difference of log power, in dB. energy: the same of power summed over time, without which
        what is uncertain becomes too quiet. magnitude: that of square roots of magnitudes.
        convergence: norm of the difference of magnitudes over the norm of the original's. phase: 1 - cos of the
        difference of phases, weighted by the original's square root of magnitude; None through short windows.
        """
        spectrum = self.spectrum(decoded)
        power = spectrum.real.square() + spectrum.imag.square()
        magnitude = (power + BIN_FLOOR).sqrt()
        with torch.no_grad():
            target_spectrum = self.spectrum(original)
            target_power = target_spectrum.real.square() + target_spectrum.imag.square()
            target = (target_power + BIN_FLOOR).sqrt()
            target_mel = target_power @ self.mel.T + MEL_FLOOR
        mel = power @ self.mel.T + MEL_FLOOR
        error = (target - magnitude).square().sum((1, 2)) / (target.square().sum((1, 2)) + 1e-2)
        terms = {
            "mel": DECIBELS * (mel.log() - target_mel.log()).abs().mean(),
            "energy": DECIBELS * (mel.sum(1).log() - target_mel.sum(1).log()).abs().mean(),
            "magnitude": ((target.sqrt() - magnitude.sqrt()).abs() * self.bin_weights).mean(),
            "convergence": (error + 1e-6).sqrt().mean(),
        }
        if self.has_phase:
            with torch.no_grad():
                weight = target.sqrt() * self.phase_weights
                weight = weight / (weight.sum((1, 2), keepdim=True) * len(weight) * target)
                aligned = weight * target_spectrum
            agreement = (spectrum.real * aligned.real + spectrum.imag * aligned.imag) / magnitude
            terms["phase"] = 1 - agreement.sum()
        return terms


class SpectralLoss(nn.Module):
    """The weighted sum of the terms of two resolutions a step, one short and one long, in turn."""

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights
        self.short = nn.ModuleList(Resolution(*pair) for pair in SHORT_WINDOWS.items())
        self.long = nn.ModuleList(Resolution(*pair) for pair in LONG_WINDOWS.items())

    def forward(self, decoded: Tensor, original: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(b, t) decoded and original audio -> the loss of a step, and the mean of each of its terms."""
        pair = self.short[step % len(self.short)], self.long[step % len(self.long)]
        results = [resolution(decoded, original) for resolution in pair]
        terms = {
            name: torch.stack([result[name] for result in results if name in result]).mean() for name in self.weights
        }
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum(), terms


class CodebookLearner(nn.Module):
    """Moves the codebooks to the means of what is nearest to their vectors (van den Oord et al. 2017, appendix A.1).

    The means are exponential moving averages; a vector that hardly anything is nearest to moves to a random point.
    """

    DECAY = 0.99
    DEAD = 0.02  # points a step; below that a vector is replaced
    counts: Tensor  # (k, codebook_size) points a step
    sums: Tensor  # (k, codebook_size, d) of the points

    def __init__(self, network: CodecNetwork) -> None:
        super().__init__()
        c = network.config
        self.register_buffer("counts", torch.zeros(c.num_codebooks, c.codebook_size))
        self.register_buffer("sums", torch.zeros(c.num_codebooks, c.codebook_size, c.codebook_dim))

    @torch.no_grad()
    def initialize(self, network: CodecNetwork, latents: Tensor, points_per_step: int, generator: Any) -> None:
        """Fit projections and codebooks to latents (n, z), level by level: principal directions, then k-means."""
        residual = latents
        for i, level in enumerate(network.levels):
            mean = residual.mean(0)
            directions = torch.linalg.svd(residual - mean, full_matrices=False).Vh[: network.config.codebook_dim]
            level.project_in.weight.copy_(directions)
            level.project_in.bias.copy_(-directions @ mean)
            level.project_out.weight.copy_(directions.T)
            level.project_out.bias.copy_(mean)
            points = level.project_in(residual)
            level.codebook.copy_(kmeans(points, len(level.codebook), generator))
            codes = nearest_vectors(points, level.codebook)
            fraction = codes.bincount(minlength=len(level.codebook)) / len(codes)
            self.counts[i] = fraction * points_per_step + 5 * self.DEAD
            self.sums[i] = level.codebook * self.counts[i][:, None]
            residual = residual - level.project_out(level.codebook[codes])

    @torch.no_grad()
    def update(self, network: CodecNetwork, index: int, points: Tensor, codes: Tensor, generator: Any) -> None:
        """Move the codebook of one level after a step that has seen points (n, d) with codes (n,)."""
        codebook, counts, sums = network.levels[index].codebook, self.counts[index], self.sums[index]
        counts.mul_(self.DECAY).add_(codes.bincount(minlength=len(counts)), alpha=1 - self.DECAY)
        sums.mul_(self.DECAY).add_(torch.zeros_like(sums).index_add_(0, codes, points), alpha=1 - self.DECAY)
        codebook.copy_(sums / (counts[:, None] + 1e-6))
        dead = (counts < self.DEAD).nonzero()[:, 0][: max(1, len(points) // 16)]
        selected = torch.randint(len(points), (len(dead),), generator=generator).to(points.device)
        codebook[dead] = points[selected]
        counts[dead] = 10 * self.DEAD
        sums[dead] = 10 * self.DEAD * points[selected]


def quantize_for_training(
    network: CodecNetwork, latents: Tensor, num_levels: Tensor, learner: CodebookLearner, generator: Any
) -> tuple[Tensor, Tensor]:
    """(b, l, z) latents -> the same, quantized by the first `num_levels` (b,) codebooks, and the commitment loss.

    Gradients pass straight through the codebooks, which move by themselves.
    """
    batch, frames, _ = latents.shape
    residual, commitment = latents.flatten(0, 1), latents.new_zeros(())
    total = torch.zeros_like(residual)
    for index, level in enumerate(network.levels):
        points = level.project_in(residual)
        with torch.no_grad():
            fixed, book = points.detach(), level.codebook
            codes = (book.square().sum(1) - 2 * fixed @ book.T).argmin(1)  # of |p - c|^2 what differs between codes
            vectors = book[codes]
            keep = (num_levels > index).to(latents).repeat_interleave(frames)[:, None]
        commitment = commitment + ((points - vectors).square().sum(1, keepdim=True) * keep).mean()
        part = level.project_out(points + (vectors - points).detach()) * keep
        residual, total = residual - part, total + part
        learner.update(network, index, fixed, codes, generator)
    return total.unflatten(0, (batch, frames)), commitment
