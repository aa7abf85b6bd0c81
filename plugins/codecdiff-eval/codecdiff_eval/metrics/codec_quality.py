"""Full-reference metrics of a codec: how decoded music differs from what was encoded, clip by clip.

    results = codec_quality(pairs, sample_rate)        # pairs of (t,) original and decoded audio

Every metric is a function of an original and a decoded clip, and stands in METRICS with its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import soxr
import torch
from torch import Tensor

from codecdiff_eval.audio_features import log_mel
from codecdiff_eval.metrics.adherence import NOTHING
from codecdiff_eval.metrics.bootstrap import bootstrap
from codecdiff_eval.metrics.signal import touches_full_scale, tuning_error_cents
from codecdiff_eval.results import TargetResult

__all__ = ["codec_quality", "event_f1", "mel_distance", "stft_distance"]

MEL_BANDS = 80
RESOLUTIONS = ((1024, 600, 120), (2048, 1200, 240), (512, 240, 50))  # samples: FFT, window, hop
ONSET_TOLERANCE = 0.05  # seconds
VISQOL_RATE = 48_000  # Hz, of its audio mode


def mel_distance(original: Tensor, decoded: Tensor, sample_rate: int) -> float:
    """(t,) audio twice -> mean absolute difference in dB of the powers of 80 mel bands (`audio_features.log_mel`)."""
    levels = log_mel(torch.stack([original, decoded]), sample_rate, num_bands=MEL_BANDS)
    return float(levels.diff(dim=0).abs().mean()) * 10 / math.log(10)


def stft_distance(original: Tensor, decoded: Tensor, sample_rate: int) -> float:
    """(t,) audio twice -> multi-resolution STFT distance (Yamamoto et al. 2020, Eqs. 4 to 6).

    The mean over three resolutions of spectral convergence, |S - S'| / |S| in Frobenius norms, plus the mean absolute
    difference of log magnitudes; magnitudes under 1e-7 count as 1e-7.
    """

    def magnitudes(audio: Tensor, fft_size: int, window: int, hop: int) -> Tensor:
        shape = torch.hann_window(window, dtype=torch.float64)
        spectrum = torch.stft(audio.double(), fft_size, hop, window, shape, return_complex=True)
        return spectrum.abs().clamp(min=1e-7)

    total = 0.0
    for resolution in RESOLUTIONS:
        a, b = magnitudes(original, *resolution), magnitudes(decoded, *resolution)
        total += float((a - b).norm() / a.norm() + (a.log() - b.log()).abs().mean())
    return total / len(RESOLUTIONS)


def event_f1(expected: Sequence[float], detected: Sequence[float], tolerance: float) -> float:
    """Return the F-measure of events in seconds, each matched at most once within a tolerance. 1 where both are empty.

    Events on a line are matched best in order, so one pass finds the largest matching.
    """
    if not len(expected) and not len(detected):
        return 1.0
    a, b, matched, i, j = sorted(expected), sorted(detected), 0, 0, 0
    while i < len(a) and j < len(b):
        if abs(a[i] - b[j]) <= tolerance:
            matched, i, j = matched + 1, i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return 2 * matched / (len(a) + len(b))


def onset_f1(original: Tensor, decoded: Tensor, sample_rate: int) -> float:
    """(t,) audio twice -> F-measure of librosa's onsets within 50 ms (MIREX, onset detection)."""
    import librosa

    before, after = (librosa.onset.onset_detect(y=x.numpy(), sr=sample_rate, units="time") for x in (original, decoded))
    return event_f1(before.tolist(), after.tolist(), ONSET_TOLERANCE)


def added_tuning_error(original: Tensor, decoded: Tensor, sample_rate: int) -> float:
    """(t,) audio twice -> tuning error of the decoded one minus that of the original, in cents."""
    before, after = (tuning_error_cents(audio, sample_rate) for audio in (original, decoded))
    return math.nan if NOTHING in (before, after) else after - before


def added_full_scale(original: Tensor, decoded: Tensor, sample_rate: int) -> float:
    """(t,) audio twice -> 1 where only the decoded one touches full scale, -1 where only the original does, else 0."""
    return float(touches_full_scale(decoded)) - float(touches_full_scale(original))


def visqol_score(original: Tensor, decoded: Tensor, sample_rate: int) -> float:
    """(t,) audio twice -> MOS-LQO of ViSQOL in its audio mode at 48 kHz (Chinen et al. 2020), 1 to about 4.73."""
    resampled = [soxr.resample(x.double().numpy(), sample_rate, VISQOL_RATE) for x in (original, decoded)]
    return float(_visqol().measure_from_arrays(*resampled, sample_rate=VISQOL_RATE).moslqo)


@cache
def _visqol():
    from visqol import VisqolApi  # pyright: ignore[reportMissingImports]  # an extra

    api = VisqolApi()
    api.create(mode="audio")
    return api


METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "mel distance, dB": mel_distance,
    "multi-resolution STFT distance": stft_distance,
    "added tuning error, cents": added_tuning_error,
    "added clips at full scale": added_full_scale,
    "onset F1": onset_f1,
    "ViSQOL, MOS-LQO": visqol_score,
}
NEEDS = {"onset F1": "librosa", "ViSQOL, MOS-LQO": "visqol"}  # packages, without which they are left out


def codec_quality(pairs: Sequence[tuple[Tensor, Tensor]], sample_rate: int, *, seed: int = 0) -> list[TargetResult]:
    """Return the mean over pairs (t,) of original and decoded audio of every metric, each with its 95 % interval.

    Pairs that a metric cannot say anything about, as silent ones, do not count. Metrics of packages that are not
    installed are left out.

    Example:
        decoded = codec.decode(codec.encode(audio))[..., : audio.shape[-1]]
        for result in codec_quality([(audio[0, 0], decoded[0, 0])], codec.sample_rate):
            print(result.name, result.value)

    """
    results = []
    for name, metric in METRICS.items():
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            continue
        values = torch.tensor([metric(a.float().cpu(), b.float().cpu(), sample_rate) for a, b in pairs]).double()
        if len(measured := values[values.isfinite()]):
            results.append(TargetResult(name, *bootstrap(lambda drawn: float(drawn.mean()), measured, seed=seed)))
    return results
