"""The starter codec: residual codebooks for the log spectrum, fitted in seconds.

Shapes: b batch, k codebook, d codebook dimension, l latent frame, t audio sample; s spectral band, f frequency
bin, n frame of the music it is fitted to.
"""

import itertools
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from codecdiff.codecs import ResidualCodec, nearest_vectors
from codecdiff.errors import InvalidValue
from codecdiff_starter.phases import HOP, NUM_BINS, retrieve_phases, spectrum

SAMPLE_RATE = 44100  # Hz
BANDWIDTH = 1 / 24  # width of a band over its frequency; never less than a bin
TILT = 2500.0  # Hz; the weight of a band falls above this, since pitches lie below and most bands above
SLOPE = 0.6  # power of the frequency with which it falls
FLOOR = 1e-3  # power added to a band before its logarithm; a full-scale sine has about 2.6e5
CONTEXT = 2  # frames on either side that a decoded frame is estimated from
FIT_FRAMES = 207_000  # frames that are read at most: forty minutes
KMEANS_FRAMES = 60_000
DECODER_FRAMES = 40_000  # frames that the decoder is fitted to, about
KMEANS_ROUNDS = 8
CACHED = 2048  # points whose distances to all centers are computed at once
BIN_FLOOR = 1e-5  # power added to a bin before its logarithm, in the decoder
RIDGE = 1e-4  # of the decoder's regression, per frame


class SpectralCodec(ResidualCodec):
    """A codec with the structure of DAC (44.1 kHz, 86 frames per second, 9 codebooks of 1024) fitted in seconds.

    It is not DAC, nor a neural codec at all: it keeps the magnitudes of the short-time spectrum and guesses the
    phases, so it sounds like a phase vocoder, and its audio does not follow the waveform. It is good for trying,
    testing and teaching everything around a codec on any machine without a download: level 0 holds most of
    the energy and later levels refine it, as in DAC.

    A frame is the log power in bands, weighted. Level i takes the residual of the levels before it, keeps its 8
    principal directions (the projection, orthonormal, so that distances between latents are distances between
    spectra) and replaces them by the nearest of 1024 k-means vectors. The decoder is a linear regression
    from the vectors of five frames to the log spectrum; phases are estimated by the fast Griffin-Lim algorithm,
    started from sinusoids. Phases depend on all frames before, so its context is unbounded.
    """

    sample_rate = SAMPLE_RATE
    channels = 1
    hop_length = HOP
    num_codebooks = 9
    codebook_size = 1024
    codebook_dim = 8

    bands: Tensor  # (s, f) mean over the bins of a band
    weights: Tensor  # (s,) of a band in distances
    mean: Tensor  # (s,) of the features
    projections: Tensor  # (k, d, s), orthonormal rows
    codebooks: Tensor  # (k, codebook_size, d)
    decoder: Tensor  # (f, k * d, 2 * CONTEXT + 1) log power of a bin per latent
    offset: Tensor  # (f,) log power of a bin where all latents are zero

    def __init__(self, *, griffin_lim_iterations: int = 4) -> None:
        super().__init__()
        self.griffin_lim_iterations = griffin_lim_iterations
        self.register_buffer("bands", band_means(), persistent=False)
        self.register_buffer("weights", band_weights(self.bands), persistent=False)
        k, d, s = self.num_codebooks, self.codebook_dim, len(self.bands)
        self.register_buffer("mean", torch.zeros(s))
        self.register_buffer("projections", torch.zeros(k, d, s))
        self.register_buffer("codebooks", torch.zeros(k, self.codebook_size, d))
        self.register_buffer("decoder", torch.zeros(NUM_BINS, k * d, 2 * CONTEXT + 1))
        self.register_buffer("offset", torch.zeros(NUM_BINS))

    @property
    def quantizers(self) -> list[tuple[Tensor, Tensor]]:
        """The projection and the vectors of every level. Raises InvalidValue before they are fitted."""
        self._require_fit()
        return list(zip(self.projections, self.codebooks, strict=True))

    def encode_features(self, audio: Tensor) -> Tensor:
        """(1, 1, l * hop_length) audio -> (1, s, l) features, their mean subtracted."""
        self._require_fit()
        return (self.features(audio) - self.mean).mT

    def project_in(self, quantizer: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        """(1, s, l) residual -> (1, d, l) its projection."""
        return (residual.mT @ quantizer[0].T).mT

    def project_out(self, quantizer: tuple[Tensor, Tensor], vectors: Tensor) -> Tensor:
        """(1, d, l) codebook vectors -> (1, s, l) features."""
        return (vectors.mT @ quantizer[0]).mT

    def codebook_vectors(self, quantizer: tuple[Tensor, Tensor], codes: Tensor) -> Tensor:
        """(b, l) codes -> (b, d, l) codebook vectors."""
        return quantizer[1][codes].mT

    def nearest_codes(self, quantizer: tuple[Tensor, Tensor], latents: Tensor) -> Tensor:
        """(b, d, l) latents -> (b, l) codes of the nearest vectors, by Euclidean distance."""
        return nearest_vectors(latents.mT, quantizer[1])

    def decode_row(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, 1, l * hop_length) audio, which can exceed [-1, 1]."""
        spectrum = self.magnitudes(self.embed(codes))
        return retrieve_phases(spectrum, self.griffin_lim_iterations)[None]

    @torch.no_grad()
    def magnitudes(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, f, l) short-time magnitudes they stand for; zeros stand for the mean."""
        logs = conv1d(latents.flatten(1, 2), self.decoder, self.offset, padding=CONTEXT)
        return (logs.exp() - BIN_FLOOR).clamp(min=0).sqrt()

    @torch.no_grad()
    def features(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, l, s) weighted log power of the bands."""
        powers = bin_powers(audio[:, 0]).transpose(1, 2)
        return self.weights * (powers @ self.bands.T + FLOOR).log()

    @property
    def is_fitted(self) -> bool:
        """False until `fit` or `load_fitted_state`, or loading a state dict."""
        return bool(self.codebooks.any())

    @torch.no_grad()
    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit codebooks and decoder to shuffled clips (1, t) of music; the first forty minutes are read."""
        device = self.mean.device
        audio = [clip.to(device, torch.float32)[None] for clip in first_frames(clips, FIT_FRAMES)]
        features = torch.cat([self.features(clip)[0] for clip in audio])
        generator = torch.Generator().manual_seed(seed)
        self.mean.copy_(features.mean(0))
        sample = torch.randperm(len(features), generator=generator)[:KMEANS_FRAMES].to(device)
        self._fit_levels(features[sample] - self.mean, generator)
        self._fit_decoder(audio[:: math.ceil(len(features) / DECODER_FRAMES)])

    def _fit_levels(self, residual: Tensor, generator: torch.Generator) -> None:
        """Fit one level after the other to the residual of those before it, first the features (n, s)."""
        for projection, codebook in zip(self.projections, self.codebooks, strict=True):
            projection.copy_(principal_directions(residual, self.codebook_dim))
            points = residual @ projection.T
            codebook.copy_(kmeans(points, self.codebook_size, generator))
            residual = residual - codebook[nearest_vectors(points, codebook)] @ projection

    def _fit_decoder(self, audio: list[Tensor]) -> None:
        """Regress the log power of every bin on the vectors of its frame and those around it (ridge regression).

        The exponential of a mean logarithm is too quiet where the logarithm is uncertain. For a Gaussian
        error of variance v the mean amplitude is exp(v / 8) times that, and log power v / 4 more.
        """
        inputs = torch.cat([self._neighborhoods(clip) for clip in audio])
        targets = torch.cat([log_powers(clip) for clip in audio])
        ridge = RIDGE * len(inputs) * torch.eye(inputs.shape[1], device=inputs.device)
        solution = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
        variance = (targets - inputs @ solution).square().mean(0)
        self.decoder.copy_(solution[:-1].T.unflatten(1, self.decoder.shape[1:]))
        self.offset.copy_(solution[-1] + variance / 4)

    def _neighborhoods(self, clip: Tensor) -> Tensor:
        """(1, 1, t) audio -> (l, inputs + 1) vectors around every frame, in the order of `decoder`, then a one."""
        latents = pad(self.embed(self.encode(clip)).flatten(1, 2), (CONTEXT, CONTEXT))[0]
        around = latents.unfold(1, 2 * CONTEXT + 1, 1).transpose(0, 1).flatten(1)
        return pad(around, (0, 1), value=1.0)

    def fitted_state(self) -> dict[str, Tensor]:
        """Return the fitted mean, projections, codebooks, decoder and offset, float32."""
        self._require_fit()
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors of `fitted_state`. Raises InvalidValue for a missing, unknown or misshapen tensor."""
        own = self.state_dict()
        wrong = [name for name in own.keys() | state.keys() if _shape(own, name) != _shape(state, name)]
        if wrong:
            shapes = "; ".join(f"{name}: {_shape(state, name)}, expected {_shape(own, name)}" for name in sorted(wrong))
            raise InvalidValue(f"This is not the fitted state of a {type(self).__name__}. Shapes: {shapes}.")
        self.load_state_dict(dict(state))

    def _require_fit(self) -> None:
        if not self.is_fitted:
            raise InvalidValue(
                "SpectralCodec is not fitted: call `fit(clips)` with music, or load a model folder that has one."
            )


def band_means() -> Tensor:
    """Return the (s, f) matrix that averages over bands: of one bin, higher up of `BANDWIDTH` times their frequency."""
    edges = [0]
    while edges[-1] < NUM_BINS:
        edges.append(min(edges[-1] + max(1, round(edges[-1] * BANDWIDTH)), NUM_BINS))
    matrix = torch.zeros(len(edges) - 1, NUM_BINS)
    for band, (low, high) in zip(matrix, itertools.pairwise(edges), strict=True):
        band[low:high] = 1 / (high - low)
    return matrix


def band_weights(bands: Tensor) -> Tensor:
    """(s, f) bands -> (s,) weights: 1 at low frequencies, falling above `TILT`."""
    frequencies = bands @ torch.linspace(0, SAMPLE_RATE / 2, NUM_BINS)
    return (1 + (frequencies / TILT) ** 2) ** (-SLOPE / 2)


def bin_powers(audio: Tensor) -> Tensor:
    """(b, t) audio -> (b, f, l) power of the short-time spectrum, l = ceil(t / HOP)."""
    return spectrum(pad(audio, (0, -audio.shape[-1] % HOP))).abs().square()


def log_powers(clip: Tensor) -> Tensor:
    """(1, 1, t) audio -> (l, f) log power of every bin: the target of the decoder."""
    return (bin_powers(clip[:, 0])[0].T + BIN_FLOOR).log()


def principal_directions(points: Tensor, count: int) -> Tensor:
    """(n, s) points -> (count, s) orthonormal directions of most energy, most first, largest part positive.

    In float64, on the CPU: LAPACK's single precision can give NaN where there is next to no energy.
    """
    moments = (points.T @ points / len(points)).double().cpu()
    vectors = torch.linalg.eigh(moments).eigenvectors[:, -count:].flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign()).to(points)


def kmeans(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(n, d) points -> (count, d) distinct centers: Lloyd's algorithm, from points drawn at random.

    A center that no point is nearest to moves to a random point.
    """
    centers = distinct(_draw(points, count, generator), generator)
    for _ in range(KMEANS_ROUNDS):
        owner = torch.cat([torch.cdist(part, centers).argmin(1) for part in points.split(CACHED)])
        sizes = owner.bincount(minlength=count)[:, None]
        sums = torch.zeros_like(centers).index_add_(0, owner, points)
        centers = torch.where(sizes > 0, sums / sizes.clamp(min=1), _draw(points, count, generator))
    return distinct(centers, generator)


def distinct(centers: Tensor, generator: torch.Generator) -> Tensor:
    """(m, d) centers -> the same with repeated ones moved apart a little."""
    while True:
        _, which, sizes = torch.unique(centers, dim=0, return_inverse=True, return_counts=True)
        repeated = sizes[which] > 1
        if not repeated.any():
            return centers
        noise = torch.randn(centers.shape, generator=generator).to(centers)
        centers = torch.where(repeated[:, None], centers + 1e-3 * noise, centers)


def first_frames(clips: Iterable[Tensor], frames: int) -> list[Tensor]:
    """Return the first clips (1, t) that have `frames` frames in all; no clip at all raises `ValueError`."""
    selected: list[Tensor] = []
    for clip in clips:
        selected.append(clip)
        if sum(c.shape[-1] for c in selected) >= frames * HOP:
            break
    if not selected:
        raise InvalidValue("SpectralCodec needs clips to fit: there were none.")
    return selected


def _draw(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` rows of points, each once while there are enough."""
    order = torch.randperm(len(points), generator=generator).to(points.device)
    return points[order[torch.arange(count, device=points.device) % len(points)]]


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
