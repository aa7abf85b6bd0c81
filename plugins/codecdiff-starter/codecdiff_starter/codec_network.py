"""The network of the trained codec: short-time spectra to residual codes, and codes to a complex spectrum.

Shapes: b batch, t audio sample, l latent frame, f frequency bin, s frequency band, n feature, w width, z latent
channel, k codebook, d codebook dimension.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.codecs import nearest_vectors
from codecdiff_starter.phases import HOP, MARGIN, NUM_BINS, WINDOW, overlap_add

SAMPLE_RATE = 44100  # Hz
KERNEL = 7  # frames that a block sees
SHORT_WINDOW = 256  # audio samples; its energies tell when in a frame something starts
SHORT_HOP = 128
SHORT_BANDS = 16
GAIN_BANDS = 64
LEVEL = 32.0  # spectral magnitude of a loud bin, which becomes about 1
POWER_FLOOR = 1e-7  # relative to that, squared
SYNTHESIS_GAIN = 4.0

Size = Annotated[int, Field(gt=0, le=4096)]
Count = Annotated[int, Field(ge=0, le=64)]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network; the defaults are those of the codec that ships."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    encoder_width: Size = 256
    encoder_blocks: Count = 3
    encoder_expansion: Count = 2
    decoder_width: Size = 256
    decoder_blocks: Count = 5
    decoder_expansion: Count = 3
    latent_channels: Size = 128
    waveform_bins: Size = 192  # lowest bins whose phases are features, too: up to 4.1 kHz
    num_bands: Size = 100
    num_codebooks: Count = 9
    codebook_size: Annotated[int, Field(gt=0, le=2**16)] = 1024
    codebook_dim: Size = 8


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block in one dimension (Liu et al. 2022): (b, l, w) -> (b, l, w)."""

    def __init__(self, width: int, expansion: int, initial_scale: float = 0.1) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width * expansion)
        self.contract = nn.Linear(width * expansion, width)
        self.scale = nn.Parameter(torch.full((width,), initial_scale))

    def forward(self, hidden: Tensor) -> Tensor:
        """Add what the frames around each frame say."""
        mixed = self.depthwise(hidden.mT).mT
        return hidden + self.scale * self.contract(functional.gelu(self.expand(self.norm(mixed))))


class Features(nn.Module):
    """Audio to what the encoder reads of every frame, normalized by the statistics of the training data.

    These are the lowest bins of the spectrum with their phases, their magnitudes compressed by a power; the log power
    of bands over all frequencies; and that of few bands in each of the frame's quarters.
    """

    COMPRESSION = 0.3  # power of a magnitude

    bands: Tensor  # (s, f), each row sums to 1
    short_bands: Tensor
    window: Tensor
    short_window: Tensor
    mean: Tensor  # (n,)
    deviation: Tensor  # (n,)

    def __init__(self, num_bins: int, num_bands: int) -> None:
        super().__init__()
        self.num_bins = num_bins
        bands, short_bands = mel_bands(num_bands, WINDOW), mel_bands(SHORT_BANDS, SHORT_WINDOW)
        self.num_features = 2 * num_bins + len(bands) + HOP // SHORT_HOP * len(short_bands)
        self.register_buffer("bands", _placed(bands / bands.sum(1, keepdim=True)), persistent=False)
        self.register_buffer("short_bands", _placed(short_bands / short_bands.sum(1, keepdim=True)), persistent=False)
        self.register_buffer("window", _placed(torch.hann_window(WINDOW, device="cpu")), persistent=False)
        self.register_buffer("short_window", _placed(torch.hann_window(SHORT_WINDOW, device="cpu")), persistent=False)
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("deviation", torch.ones(self.num_features))

    def forward(self, audio: Tensor) -> Tensor:
        """(b, l * HOP) audio -> (b, l, n) features."""
        return (self.raw(audio) - self.mean) / self.deviation

    def raw(self, audio: Tensor) -> Tensor:
        """(b, l * HOP) audio -> (b, l, n) features before they are normalized."""
        spectrum = windowed_spectrum(audio, self.window, HOP)
        short_spectrum = windowed_spectrum(audio, self.short_window, SHORT_HOP)
        lowest = spectrum[..., : self.num_bins] / LEVEL
        compressed = torch.view_as_real(lowest * (_power(lowest) + POWER_FLOOR) ** ((self.COMPRESSION - 1) / 2))
        quarters = _log(_power(short_spectrum) / LEVEL @ self.short_bands.T).unflatten(1, (-1, HOP // SHORT_HOP))
        bands = _log(_power(spectrum) / LEVEL**2 @ self.bands.T)
        return torch.cat([compressed[..., 0], compressed[..., 1], bands, quarters.flatten(2)], dim=-1)

    @torch.no_grad()
    def fit(self, audio: Tensor) -> None:
        """Set mean and deviation to those of (b, l * HOP) audio; the phases of all bins keep a mean of zero."""
        raw = self.raw(audio).flatten(0, 1)
        mean, deviation = raw.mean(0), raw.std(0)
        complex_part = slice(0, 2 * self.num_bins)
        mean[complex_part] = 0
        deviation[complex_part] = deviation[complex_part].clamp(min=0.25 * float(deviation[complex_part].mean()))
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=0.02))


class FeatureEncoder(nn.Module):
    """Features (b, l, n) -> latents (b, l, z): a linear map, plus what blocks over neighboring frames add."""

    def __init__(self, num_features: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.expand = nn.Linear(num_features, width)
        self.blocks = nn.Sequential(
            *(ConvNeXtBlock(width, config.encoder_expansion) for _ in range(config.encoder_blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.contract = nn.Linear(width, config.latent_channels)
        self.linear = nn.Linear(num_features, config.latent_channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the latents."""
        return self.contract(self.norm(self.blocks(self.expand(features)))) + self.linear(features)


class Quantizer(nn.Module):
    """One level of residual quantization: a projection to few dimensions, a codebook, and a projection back."""

    codebook: Tensor  # (codebook_size, d)

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.project_in = nn.Linear(config.latent_channels, config.codebook_dim)
        self.project_out = nn.Linear(config.codebook_dim, config.latent_channels)
        codebook = torch.empty(config.codebook_size, config.codebook_dim)
        self.register_buffer("codebook", codebook if codebook.is_meta else codebook.normal_())


class Decoder(nn.Module):
    """Latents (b, l, z) -> audio (b, l * HOP), by the complex short-time spectrum.

    The network's outputs a + ib have a magnitude that is the square root of the spectrum's, which spreads over
    a smaller range, times the exponential of a gain for each band.
    """

    bands: Tensor  # (s, f) zeros and ones
    window: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.expand = nn.Conv1d(config.latent_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(ConvNeXtBlock(width, config.decoder_expansion) for _ in range(config.decoder_blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.spectrum = nn.Linear(width, 2 * NUM_BINS)
        bands = mel_bands(GAIN_BANDS, WINDOW)
        self.gain = nn.Linear(width, len(bands))
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)
        self.register_buffer("bands", _placed(bands), persistent=False)
        self.register_buffer("window", _placed(torch.hann_window(WINDOW, device="cpu")), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the audio."""
        hidden = self.norm(self.blocks(self.expand(latents.mT).mT))
        dtype = self.window.dtype  # synthesis stays in full precision under autocast
        return self.synthesize(self.spectrum(hidden).to(dtype), self.gain(hidden).to(dtype))

    def synthesize(self, parts: Tensor, gains: Tensor) -> Tensor:
        """(b, l, 2 f) real and imaginary parts, (b, l, s) log gains -> (b, l * HOP) audio."""
        with torch.autocast(parts.device.type, enabled=False):
            compressed = torch.complex(*parts.chunk(2, dim=-1))
            scale = SYNTHESIS_GAIN * (_power(compressed) + POWER_FLOOR).sqrt() * (gains @ self.bands).exp()
            frames = torch.fft.irfft(compressed * scale, WINDOW) * self.window
            weight = overlap_add(self.window.square().expand(1, frames.shape[1], WINDOW))
            return overlap_add(frames)[:, MARGIN:-MARGIN] / weight[:, MARGIN:-MARGIN]


class CodecNetwork(nn.Module):
    """Encoder, quantizers and decoder."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        self.features = Features(config.waveform_bins, config.num_bands)
        self.encoder = FeatureEncoder(self.features.num_features, config)
        self.quantizers = nn.ModuleList(Quantizer(config) for _ in range(config.num_codebooks))
        self.decoder = Decoder(config)

    @property
    def encode_context_frames(self) -> int:
        """Frames on each side that a code depends on: those of the blocks, and of the longest window."""
        return self.config.encoder_blocks * (KERNEL // 2) + -(-MARGIN // HOP)

    @property
    def decode_context_frames(self) -> int:
        """Frames on each side that a frame of audio depends on: those of the blocks, and overlapping windows."""
        return 1 + self.config.decoder_blocks * (KERNEL // 2) + -(-MARGIN // HOP)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(b, l, z) latents -> (b, k, l) codes and (b, k, l, d) projections, each level of the residual before it."""
        codes, continuous = [], []
        for level in self.levels:
            continuous.append(level.project_in(latents))
            codes.append(nearest_vectors(continuous[-1], level.codebook))
            latents = latents - level.project_out(level.codebook[codes[-1]])
        return torch.stack(codes, dim=1), torch.stack(continuous, dim=1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, l, z) latents. With fewer than all codebooks, those of a coarser sound."""
        levels = zip(self.levels, codes.unbind(1), strict=False)
        return torch.stack([level.project_out(level.codebook[row]) for level, row in levels]).sum(0)

    @property
    def levels(self) -> list[Any]:
        """The quantizers, coarse to fine."""
        return list(self.quantizers)


def windowed_spectrum(audio: Tensor, window: Tensor, hop: int) -> Tensor:
    """(b, t) audio -> (b, frames, f) complex spectrum, frames centered on blocks of `hop` samples."""
    margin = (len(window) - hop) // 2
    return torch.fft.rfft(functional.pad(audio, (margin, margin)).unfold(1, len(window), hop) * window)


def mel_bands(count: int, window: int) -> Tensor:
    """Return (s, f) zeros and ones: which bins belong to each of at most `count` bands of about equal width in mel."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = [0]
    for i in range(1, count):
        hertz = 700 * (10 ** (top * i / count / 2595) - 1)
        edges.append(max(round(hertz * window / SAMPLE_RATE), edges[-1] + 1))
    edges = [edge for edge in edges if edge <= window // 2] + [window // 2 + 1]
    bands = torch.zeros(len(edges) - 1, window // 2 + 1, device="cpu")
    for band, (low, high) in zip(bands, itertools.pairwise(edges), strict=True):
        band[low:high] = 1
    return bands


def _placed(constant: Tensor) -> Tensor:
    """Move a constant to the default device. Computing it on the meta device would import torch's compiler."""
    return constant.to(torch.get_default_device())


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _log(power: Tensor) -> Tensor:
    return 0.25 * (power + POWER_FLOOR).log()
