"""Distances and probes on log-mel features: how near two sets of clips are, and what can be read off a clip.

Everything works on one kind of features, (n, w, 64) float64: n clips of w windows each (`window_features`).
The clip axis is kept because windows of one clip are not independent: intervals resample clips (`bootstrap`),
or the recordings that they were cut from (`bootstrap_recordings`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from codecdiff.gaussians import frechet, root

NUM_BANDS = 32
LOWEST, HIGHEST = 40.0, 16_000.0  # Hz, edges of the mel bands; the highest is at most half the sample rate
FRAMES_PER_SECOND = 100
FFT_SECONDS = 0.046  # of audio under one spectral frame, rounded to a power of two samples
FLOOR = 1e-7  # power added before the logarithm: 70 dB under full scale, so digital silence is not an outlier
WINDOW_SECONDS = 1.0  # windows overlap by half
CLIPS_AT_ONCE = 8  # bounds the memory of the spectrograms


class Estimate(NamedTuple):
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float


def mel(hertz: Tensor) -> Tensor:
    """Frequency in Hz -> mel, 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    return 2595 * torch.log10(1 + hertz / 700)


def mel_filterbank(sample_rate: int, fft_size: int, num_bands: int = NUM_BANDS) -> Tensor:
    """Triangles of height one, evenly spaced in mel, each reaching to its neighbours' centres: (bands, bins)."""
    edges = mel(torch.tensor([LOWEST, min(HIGHEST, sample_rate / 2)], dtype=torch.float64))
    corners = torch.linspace(float(edges[0]), float(edges[1]), num_bands + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, sample_rate / 2, fft_size // 2 + 1, dtype=torch.float64))
    low, centre, high = (corners[i : i + num_bands, None] for i in range(3))
    return torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)


def log_mel(audio: Tensor, sample_rate: int, *, num_bands: int = NUM_BANDS) -> Tensor:
    """(n, t) audio -> (n, bands, frames) natural log of mel band power, `FRAMES_PER_SECOND`, float32.

    Power is relative to the square of the window's sum, so it does not depend on the sample rate.
    """
    fft_size = 2 ** round(math.log2(FFT_SECONDS * sample_rate))
    if audio.shape[-1] <= fft_size // 2:
        raise ValueError(f"A spectrogram needs more than {fft_size // 2} samples of audio, but got {audio.shape[-1]}.")
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
    heard changes more at its edges than music does there.
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
        raise ValueError(
            f"Features need at least {WINDOW_SECONDS:g} s of audio, but got {seconds:.2f} s: take longer clips."
        )
    length = round(WINDOW_SECONDS * FRAMES_PER_SECOND)

    def features(clips: Tensor) -> Tensor:
        windows = log_mel(clips, sample_rate).double().unfold(2, length, length // 2)  # (n, 32, windows, frames)
        return torch.cat([windows.mean(3), windows.std(3, correction=0)], dim=1).transpose(1, 2)

    return torch.cat([features(clips) for clips in audio.split(CLIPS_AT_ONCE)])


def ledoit_wolf(samples: Tensor) -> Tensor:
    """(n, p) samples -> (p, p) covariance, shrunk towards the nearest multiple of the identity.

    Ledoit & Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices", Eq. 14,
    with S the sample covariance, |.| the Frobenius norm and m = tr(S) / p:

        (b2 / d2) m I + (1 - b2 / d2) S,    d2 = |S - m I|^2,    b2 = min(d2, sum_i |x_i x_i' - S|^2 / n^2)
    """
    n, p = samples.shape
    if n < 2:
        raise ValueError(f"A covariance needs at least 2 samples, but got {n}.")
    x = samples.double() - samples.double().mean(0)
    S = x.T @ x / n
    target = S.trace() / p * torch.eye(p, dtype=S.dtype, device=S.device)
    d2 = (S - target).square().sum()
    b2 = (x.square().sum(1).square().sum() / n - S.square().sum()) / n
    shrinkage = (b2 / d2).clamp(0, 1) if d2 > 0 else torch.zeros_like(d2)
    return shrinkage * target + (1 - shrinkage) * S


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features, (..., p) each; clips and windows are pooled.

    Heusel et al. (2017), "GANs trained by a two time-scale update rule", Eq. 6, with the means m and covariances C:

        |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)

    As codecdiff reports it: 32 log-mel bands, one-second windows half overlapped, mean and deviation over time
    (64 numbers a window, `window_features`), Ledoit-Wolf covariance, all in float64; no complex root is taken
    (`gaussians.frechet`). The distance of finite sets is biased upwards: compare sets of one size.
    """
    a, b = features_a.flatten(0, -2).double(), features_b.flatten(0, -2).double()
    return frechet(a.mean(0), root(ledoit_wolf(a)), b.mean(0), root(ledoit_wolf(b)))


def bootstrap(
    statistic: Callable[..., float], *groups: Tensor, resamples: int = 200, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Give `statistic(*groups)` with its interval, resampling each group independently along its first axis, the clips.

    Paired clips are resampled together when they share one tensor. The interval is the central `level` of
    `value + statistic(resampled) - mean of those` (Efron & Tibshirani 1993): a resample repeats clips, which pushes a
    Fréchet distance up as a smaller set would, and centring removes this push while keeping the spread.

    In simulations with 64 clips the interval of a Fréchet distance was up to twice too wide, that of a ratio of two
    about a third too narrow.
    """
    value = statistic(*groups)
    generator = torch.Generator().manual_seed(seed)

    def resampled(group: Tensor) -> Tensor:
        return group[torch.randint(len(group), (len(group),), generator=generator)]

    return centred(value, [statistic(*map(resampled, groups)) for _ in range(resamples)], level)


def centred(value: float, resampled: Sequence[float], level: float = 0.95) -> Estimate:
    """Give a value with the central `level` of what its resamples spread, shifted so that their mean is the value."""
    values = torch.tensor(resampled, dtype=torch.float64)
    spread = values - values.mean()
    low, high = torch.quantile(spread, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Estimate(value, value + low, value + high)


def bootstrap_recordings(
    statistic: Callable[..., float], *sets: Sequence[Tensor], resamples: int = 200, seed: int = 0
) -> Estimate:
    """Give a statistic of the numbers (n,) of clips with its interval, resampling recordings with all their clips.

    Each set is the numbers of the clips of every recording. Of recordings of one clip it is `bootstrap` of the clips.
    """

    def of_drawn(*drawn: Tensor) -> float:
        pairs = zip(sets, drawn, strict=True)
        return statistic(*(torch.cat([recordings[i] for i in some.tolist()]) for recordings, some in pairs))

    numbers = (torch.arange(len(recordings)) for recordings in sets)
    return bootstrap(of_drawn, *numbers, resamples=resamples, seed=seed)


class Probe(NamedTuple):
    """A linear classifier of clips: standardise each feature, weigh, and average the scores of a clip's windows."""

    mean: Tensor  # (p,)
    deviation: Tensor  # (p,)
    weights: Tensor  # (p, classes)
    bias: Tensor  # (classes,)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, *, penalty: float = 0.003) -> Probe:
        """Fit (n, w, p) features to (n,) labels 0, 1, ...: multinomial logistic regression (Cox 1966) by L-BFGS.

        Every window is a sample with its clip's label, every class has the same total weight, and the loss is the
        weighted mean cross entropy plus `penalty / 2 |weights|^2`: convex, so the fit does not depend on a seed.
        """
        counts = torch.bincount(labels)
        if len(counts) < 2 or not counts.all():
            raise ValueError(
                f"A probe needs clips of at least two classes and of every class, but has {counts.tolist()}."
            )
        windows = features.flatten(0, 1).double()
        mean, deviation = windows.mean(0), windows.std(0).clamp(min=1e-6)
        x, y = (windows - mean) / deviation, labels.repeat_interleave(features.shape[1])
        weights = torch.zeros(x.shape[1], len(counts), dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            entropy = torch.nn.functional.cross_entropy(x @ weights + bias, y, weight=1 / counts.double())
            objective = entropy + penalty / 2 * weights.square().sum()
            objective.backward()
            return objective

        with torch.enable_grad():
            optimizer.step(loss)  # pyright: ignore[reportArgumentType]  # L-BFGS takes a closure that gives a tensor
        return cls(mean, deviation, weights.detach(), bias.detach())

    def predict(self, features: Tensor) -> Tensor:
        """(n, w, p) features -> (n,) labels, one per clip."""
        scores = (features.double() - self.mean) / self.deviation @ self.weights + self.bias
        return scores.mean(1).argmax(1)


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Mean over the classes present in `labels` (n,) of the share of their clips that is predicted right."""
    right = predicted == labels
    return float(torch.stack([right[labels == label].double().mean() for label in labels.unique()]).mean())


def probe_score(accuracy: float, ceiling: float, chance: float) -> float:
    """How much of what a probe can read was obeyed: (accuracy - chance) / (ceiling - chance).

    The ceiling is the same probe's accuracy on real clips; 0 is chance, 1 as legible as the real ones.
    NaN when the ceiling is no better than chance, for then the probe can tell nothing.
    """
    return (accuracy - chance) / (ceiling - chance) if ceiling > chance else math.nan


def accuracies(read: Tensor, truth: Tensor) -> list[float]:
    """(n, parts) classes read, (n, parts) true classes -> balanced accuracy of each part."""
    return [balanced_accuracy(*columns) for columns in zip(read.T, truth.T, strict=True)]


def shuffled(
    statistic: Callable[[Tensor], float], labels: Tensor, *, permutations: int = 100, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Give the mean of `statistic` over permutations of `labels` (n, ...) along n, with the `level` interval."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(permutations)]
    values = torch.tensor([statistic(labels[order]) for order in orders], dtype=torch.float64)
    low, high = torch.quantile(values, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Estimate(float(values.mean()), low, high)


def nearest_distance(features: Tensor, reference: Tensor) -> Tensor:
    """(n, w, p) features, (m, w', p) reference -> (n,) Euclidean distance of each clip to the nearest in reference.

    A clip is the mean of its windows. A generator that memorises lies nearer to the clips it was trained on than to
    as many clips it never saw.
    """
    return torch.cdist(features.mean(1), reference.mean(1)).amin(1)
