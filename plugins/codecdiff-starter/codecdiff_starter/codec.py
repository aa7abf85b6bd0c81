"""The starter codec: residual codebooks for the log spectrum, fitted in seconds.

Shapes: b batch, k codebook, d codebook dimension, l latent frame, t audio sample; s spectral band, f frequency
bin, n frame of the music it is fitted to.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from codecdiff import Codec
from torch import Tensor
from torch.nn.functional import conv1d, pad

from codecdiff_starter.phases import HOP, NUM_BINS, WINDOW, retrieve_phases, spectrum

SAMPLE_RATE = 44100  # Hz
BANDWIDTH = 1 / 24  # width of a band over its centre frequency; never less than a bin
FLOOR = 1e-3  # power added to a band before its logarithm; a full-scale sine has about 2.6e5
CONTEXT = 2  # frames on either side that a decoded frame is estimated from
FIT_FRAMES = 155_000  # frames that are read at most: half an hour
KMEANS_FRAMES = 60_000
KMEANS_ROUNDS = 8
RIDGE = 1e-4  # of the decoder's regression, per frame


class SpectralCodec(Codec):
    """A codec with the structure of DAC (44.1 kHz, 86 frames per second, 9 codebooks of 1024) fitted in seconds.

    It is not DAC, nor a neural codec at all: it keeps the magnitudes of the short-time spectrum and guesses the
    phases, so it sounds like a phase vocoder, and its audio does not follow the waveform. It is good for trying,
    testing and teaching everything around a codec on any machine without a download: level 0 holds most of
    the energy and later levels refine it, as in DAC.

    A frame is the log power in bands, weighted. Level i takes the residual of the levels before it, keeps its 8
    principal directions (the projection, orthonormal, so that distances between latents are distances between
    spectra) and replaces them by the nearest of 1024 k-means entries. The decoder is a linear regression
    from the entries of five frames to the log spectrum; phases are found by the fast Griffin-Lim algorithm,
    started from sinusoids. Phases depend on all frames before, so there is no finite halo.
    """

    sample_rate = SAMPLE_RATE
    channels = 1
    hop_length = HOP
    num_codebooks = 9
    codebook_size = 1024
    codebook_dim = 8

    bands: Tensor  # (s, f) mean over the bins of a band
    mean: Tensor  # (s,) of the features
    projections: Tensor  # (k, d, s), orthonormal rows
    codebooks: Tensor  # (k, codebook_size, d)
    decoder: Tensor  # (f, k * d, 2 * CONTEXT + 1) log power of a bin per latent
    offset: Tensor  # (f,) log power of a bin where all latents are zero

    def __init__(self, *, griffin_lim_iterations: int = 16) -> None:
        super().__init__()
        self.griffin_lim_iterations = griffin_lim_iterations
        self.register_buffer("bands", band_means(), persistent=False)
        k, d, s = self.num_codebooks, self.codebook_dim, len(self.bands)
        self.register_buffer("mean", torch.zeros(s))
        self.register_buffer("projections", torch.zeros(k, d, s))
        self.register_buffer("codebooks", torch.zeros(k, self.codebook_size, d))
        self.register_buffer("decoder", torch.zeros(NUM_BINS, k * d, 2 * CONTEXT + 1))
        self.register_buffer("offset", torch.zeros(NUM_BINS))

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, k, l) codes, l = ceil(t / hop_length), padded with silence on the right."""
        return self._quantized(audio).codes

    @torch.no_grad()
    def project(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, k, d, l) projected residual of every level before it is quantised."""
        return self._quantized(audio).projected

    @torch.no_grad()
    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) entries of the codebooks."""
        self._require_fit()
        entries = [codebook[code] for codebook, code in zip(self.codebooks, codes.unbind(1), strict=True)]
        return torch.stack(entries, dim=1).transpose(2, 3)

    @torch.no_grad()
    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) index of the nearest entry, by Euclidean distance."""
        self._require_fit()
        points = latents.transpose(2, 3).unbind(1)
        return torch.stack([nearest(p, c) for p, c in zip(points, self.codebooks, strict=True)], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, 1, l * hop_length) audio. Row by row: memory does not grow with the batch."""
        rows = [retrieve_phases(self.magnitudes(row), self.griffin_lim_iterations) for row in codes.split(1)]
        return torch.stack(rows)

    @torch.no_grad()
    def magnitudes(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, f, l) short-time magnitudes that the codes stand for."""
        latents = self.embed(codes).flatten(1, 2)
        return (conv1d(latents, self.decoder, self.offset, padding=CONTEXT) / 2).exp()

    @torch.no_grad()
    def features(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, l, s) log power of the bands, before the mean is subtracted."""
        powers = spectrum(pad(audio[:, 0], (0, -audio.shape[-1] % HOP))).abs().square()
        return (powers.transpose(1, 2) @ self.bands.T + FLOOR).log()

    @property
    def is_fitted(self) -> bool:
        """False until `fit` or `load_fitted_state`, or loading a state dict."""
        return bool(self.codebooks.any())
