"""What clips are like as signals, without a model: how strong their pulse is, how well in tune, whether they clip.

Each is a number of a clip, estimated by an embedder of width one, so that it shares the cache of the others. `chance`
does not exist for them; the same of real music stands beside them, and that of noise is in docs/scores.md.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric, Reference, Statistic, mean_over_clips
from codecdiff_eval.metrics.adherence import (
    HOP_LENGTH,
    NOTHING,
    SAMPLE_RATE,
    ClipEstimator,
    librosa_estimator,
    onset_strength,
)
from codecdiff_eval.metrics.bootstrap import bootstrap_tracks

__all__ = ["full_scale", "pulse_strength", "touches_full_scale", "tuning_error", "tuning_error_cents"]

SLOWEST, FASTEST = 40.0, 240.0  # beats per minute, between which a pulse is looked for
FFT_SIZE = 8192  # samples of a frame in which partials are found: bins of 2.7 Hz
PARTIALS = 80.0, 4000.0  # Hz, between which partials are looked for
PARTIAL_RANGE = 30.0  # dB under the loudest partial of a frame, to which others count
QUIET_RANGE = 40.0  # dB under the loudest frame, to which others count
FULL_SCALE = 1 - 2**-10  # amplitude: 0.008 dB under full scale


def pulse_strength(onsets: Tensor, frames_per_second: float) -> float:
    """(frames,) strength of onsets -> how strong the pulse is: 1 for onsets that repeat exactly, about 0 without any.

    The highest autocorrelation at lags of 40 to 240 beats per minute, of the strengths minus their mean, over that at
    lag 0, each divided by its number of terms (MaxAutocor of Lartillot et al. 2008).
    """
    centered = onsets.double() - onsets.double().mean()
    count, power = len(centered), float(centered.square().mean())
    first, last = (round(60 / tempo * frames_per_second) for tempo in (FASTEST, SLOWEST))
    lags = range(first, min(last, count // 2) + 1)
    if not power or not lags:
        return 0.0
    return max(0.0, max(float((centered[:-lag] * centered[lag:]).mean()) for lag in lags) / power)


def tuning_error_cents(audio: Tensor, sample_rate: int) -> float:
    """(t,) audio -> the median distance in cents of its partials from equally tempered pitches (A = 440 Hz).

    Partials are peaks of spectra of Hann-windowed frames, half overlapped, at the vertex of the parabola through three
    log magnitudes (Smith & Serra 1987), and count by their amplitude. 25 where frequencies are arbitrary, and NOTHING
    without any.
    """
    window = torch.hann_window(FFT_SIZE, dtype=torch.float64)
    spectra = torch.stft(audio.double(), FFT_SIZE, FFT_SIZE // 2, window=window, center=True, return_complex=True)
    levels = 20 * spectra.abs().clamp(min=1e-9).log10()  # dB, (bins, frames)
    loudest = levels.amax(0)
    below, here, above = levels[:-2], levels[1:-1], levels[2:]
    vertex = 0.5 * (below - above) / (below - 2 * here + above).clamp(max=-1e-9)
    bins = torch.arange(1, len(levels) - 1, dtype=torch.float64)[:, None] + vertex.clamp(-0.5, 0.5)
    hertz = bins * sample_rate / FFT_SIZE
    is_peak = (here > below) & (here >= above) & (here > loudest - PARTIAL_RANGE)
    is_partial = is_peak & (loudest > loudest.max() - QUIET_RANGE) & (hertz >= PARTIALS[0]) & (hertz <= PARTIALS[1])
    if not is_partial.any():
        return NOTHING
    cents = 1200 * torch.log2(hertz[is_partial] / 440)
    errors, order = (cents - 100 * (cents / 100).round()).abs().sort()
    weights = (10 ** (here[is_partial] / 20))[order].cumsum(0)
    return float(errors[torch.searchsorted(weights, weights[-1] / 2)])


def touches_full_scale(audio: Tensor) -> bool:
    """(t,) audio -> whether a sample is at full scale, or less than 0.01 dB under it."""
    return bool((audio.abs() >= FULL_SCALE).any())


def estimate_pulse(audio: Tensor) -> float:
    """(t,) audio at 22,050 Hz -> pulse strength of librosa's onset strength."""
    return pulse_strength(torch.from_numpy(onset_strength(audio)), SAMPLE_RATE / HOP_LENGTH)


pulse_estimator = partial(librosa_estimator, estimate_pulse, name="pulse", hop_length=HOP_LENGTH)
tuning_estimator = partial(
    ClipEstimator, partial(tuning_error_cents, sample_rate=SAMPLE_RATE), {"name": "tuning", "fft_size": FFT_SIZE}
)
full_scale_estimator = partial(  # of the mono mix at a rate at which most files are, and of silence too
    ClipEstimator, touches_full_scale, {"name": "full-scale", "threshold": FULL_SCALE}, sample_rate=44_100, silence=0.0
)


def _mean(clips: ClipEmbeddings, reference: Reference | None = None, *, seed: int) -> Statistic:
    """Return the mean over clips that are not silent, and the same of the reference as the upper bound."""

    def estimates(clips: ClipEmbeddings) -> list[int]:
        return [i for i, value in enumerate(clips.vectors[:, 0].tolist()) if value != NOTHING]

    subset, upper_bound = estimates(clips), None
    if not subset:
        raise InvalidValue("All clips are silent.")
    if isinstance(reference, ClipEmbeddings) and (rows := estimates(reference)):
        audible = reference.select(rows)
        values = audible.vectors[:, 0].double()
        upper_bound = bootstrap_tracks(lambda drawn: float(values[drawn].mean()), audible.tracks(), seed=seed)
    return mean_over_clips(clips.vectors[subset, 0].double(), subset=subset, upper_bound=upper_bound)


_metric = partial(Metric, prepare=_mean, compares="clips")
PULSE_MEANING = "how regular the beat is, from 0 for none (about 0.1 for noise) to 1 for onsets that repeat exactly"
TUNING_MEANING = (
    "median distance of partials from the nearest pitch of equal temperament at A = 440 Hz; 25 if frequencies are "
    "arbitrary"
)
FULL_SCALE_MEANING = "fraction of clips that reach full scale, and so may be distorted"
pulse = _metric("pulse strength", direction="higher", embedder=pulse_estimator, meaning=PULSE_MEANING)
tuning_error = _metric("tuning error, cents", direction="lower", embedder=tuning_estimator, meaning=TUNING_MEANING)
full_scale = _metric(
    "clips at full scale", direction="lower", embedder=full_scale_estimator, meaning=FULL_SCALE_MEANING
)
