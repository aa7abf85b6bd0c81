"""Prompt adherence: whether clips have the tempo, key and instruments that their prompts request.

Estimators of tempo and key are embedders of one number per clip, so that they share the cache of the others. A metric
compares what was estimated with what was requested, beside the same for requests permuted at random (`chance`) and, for
real clips and what is known of them (`upper_bound`). Estimators err: where the upper bound is low, they cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from codecdiff.conditioners import requested_key, requested_tempo
from codecdiff.errors import BrokenPlugin, InvalidValue
from codecdiff.interfaces import Embedder, Prompt, prompt_fields
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric, Statistic
from codecdiff_eval.metrics.bootstrap import bootstrap_tracks, permuted
from codecdiff_eval.metrics.probe import Probe, balanced_accuracy
from codecdiff_eval.results import hash_of

__all__ = [
    "HOP_LENGTH",
    "NOTHING",
    "SAMPLE_RATE",
    "SILENCE",
    "ClipEstimator",
    "Compared",
    "KeyRule",
    "agreement_with_prompts",
    "key_agreement",
    "key_of_chroma",
    "labels_compared",
    "librosa_estimator",
    "numbers_compared",
    "onset_strength",
    "requested_instruments",
]

SAMPLE_RATE = 22_050  # Hz, at which tempo and key are estimated
HOP_LENGTH = 256  # audio samples between frames of onset strength: 1.7 % of a beat at 90 beats per minute
TEMPO_TOLERANCE = 0.04  # of the requested tempo
OCTAVES = (1, 2, 1 / 2, 3, 1 / 3)  # factors by which people, too, disagree on a tempo
DOUBLES = OCTAVES[:3]
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)  # Krumhansl & Kessler (1982)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
SILENCE = 1e-4  # peak amplitude under which nothing is estimated: -80 dB
NOTHING = -1.0  # the estimate of silence
MIN_CLIPS_WITH_INSTRUMENT = 8  # and without it, for a probe to be fitted
KeyRule = Literal["exact", "mode", "mirex"]
Agreement = Callable[[Tensor, Tensor], Any]
Compared = Callable[[ClipEmbeddings], Callable[[Tensor, Tensor], float]]


def requested_instruments(prompt: Prompt) -> list[str] | None:
    """Return the instruments that a prompt requests, in its field `instruments`, if it does."""
    value = prompt_fields(prompt).get("instruments")
    return [str(name) for name in value] if isinstance(value, list | tuple) else None


class ClipEstimator(Embedder):
    """An embedder of one number per clip, a function of its audio.

    Args:
        function: Of (t,) audio that is not silent.
        description: All that an estimate follows from except the audio: a name and options.
        sample_rate: In Hz.
        silence: The estimate of silence.

    """

    width = 1
    window_seconds = hop_seconds = None  # pyright: ignore[reportAssignmentType]  # it estimates of the whole clip
    policy = "the clip as a whole"

    def __init__(
        self,
        function: Callable[[Tensor], float],
        description: Mapping[str, Any],
        *,
        sample_rate: int = SAMPLE_RATE,
        silence: float = NOTHING,
    ) -> None:
        super().__init__()
        self.function, self.description, self.sample_rate, self.silence = function, description, sample_rate, silence

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, 1, 1) estimates."""
        return torch.tensor([[[self.estimate(clip.float().cpu())]] for clip in audio])

    def estimate(self, audio: Tensor) -> float:
        """(t,) audio -> an estimate."""
        is_silent = not audio.numel() or float(audio.abs().max()) <= SILENCE
        return self.silence if is_silent else float(self.function(audio))


def librosa_estimator(function: Callable[[Tensor], float], **description: Any) -> ClipEstimator:
    """Return an estimator whose function uses librosa. Raises BrokenPlugin where that is not installed."""
    try:
        import librosa  # noqa: F401
    except ImportError as error:
        raise BrokenPlugin("Tempo and key need librosa: pip install 'codecdiff-eval[adherence]'.") from error
    return ClipEstimator(function, {"librosa": metadata.version("librosa"), **description})


def onset_strength(audio: Tensor) -> np.ndarray:
    """(t,) audio at 22,050 Hz -> (frames,) strength of onsets by librosa."""
    import librosa

    return librosa.onset.onset_strength(y=audio.numpy(), sr=SAMPLE_RATE, hop_length=HOP_LENGTH)


def estimate_tempo(audio: Tensor) -> float:
    """(t,) audio at 22,050 Hz -> beats per minute (librosa.feature.tempo).

    The peak of the autocorrelation of onset strength in windows of 8 s, averaged over the clip, with a prior at 120.
    """
    import librosa

    return librosa.feature.tempo(onset_envelope=onset_strength(audio), sr=SAMPLE_RATE, hop_length=HOP_LENGTH)[0]


def estimate_key(audio: Tensor) -> int:
    """(t,) audio at 22,050 Hz -> the key 0...23 of its chroma by librosa."""
    import librosa

    chroma = librosa.feature.chroma_cqt(y=audio.numpy(), sr=SAMPLE_RATE)
    return key_of_chroma(torch.from_numpy(chroma).double().mean(1))


tempo_estimator = partial(librosa_estimator, estimate_tempo, name="librosa-tempo", hop_length=HOP_LENGTH)
key_estimator = partial(librosa_estimator, estimate_key, name="librosa-key", profiles="Krumhansl-Kessler")


def key_of_chroma(chroma: Tensor) -> int:
    """(12,) strength of each pitch class from C -> key: the tonic, 0 for C, plus 12 if minor.

    The key whose profile correlates best with it (Krumhansl 1990, "Cognitive foundations of musical pitch").
    """
    profiles = torch.tensor([MAJOR, MINOR], dtype=torch.float64)
    keys = torch.stack([profile.roll(tonic) for profile in profiles for tonic in range(12)])
    return int(torch.corrcoef(torch.cat([chroma.double()[None], keys]))[0, 1:].argmax())


def tempo_agreement(estimated: Tensor, requested: Tensor, factors: Sequence[float] = (1,)) -> Tensor:
    """(n,) tempos -> 1 where they agree to within 4 % up to one of the factors, else 0; `NOTHING` never agrees.

    Accuracy 1 of Gouyon et al. (2006); with `OCTAVES` their accuracy 2, which accepts twice, thrice, half and a third.
    """
    targets = requested.double()[:, None] * torch.tensor(factors, dtype=torch.float64)
    return ((estimated.double()[:, None] - targets).abs() <= TEMPO_TOLERANCE * targets).any(1).double()


def key_agreement(estimated: Tensor, requested: Tensor, rule: KeyRule = "exact") -> Tensor:
    """(n,) keys -> how far they agree, 0 to 1; `NOTHING` never agrees.

    "exact": tonic and mode. "mode": major or minor alone. "mirex": 1 for the same key, 0.5 for one a fifth off in
    either direction, 0.3 for the relative, 0.2 for the parallel one (MIREX, audio key detection).
    """
    same_mode = (estimated >= 12) == (requested >= 12)
    steps = (estimated - requested).remainder(12)
    agreement = (same_mode if rule == "mode" else same_mode & (steps == 0)).double()
    if rule == "mirex":
        up_to_relative = torch.where(requested >= 12, 3, 9)  # semitones from a key's tonic to that of its relative
        agreement[same_mode & ((steps == 7) | (steps == 5))] = 0.5
        agreement[~same_mode & (steps == up_to_relative)] = 0.3
        agreement[~same_mode & (steps == 0)] = 0.2
    return torch.where((estimated >= 0) & (requested >= 0), agreement, 0.0)


def agreement_with_prompts(
    clips: ClipEmbeddings,
    reference: ClipEmbeddings | None = None,
    *,
    seed: int,
    compared: Compared,
    requested: Callable[[Prompt], Any],
    is_mean: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Statistic:
    """How far clips agree with what is requested, 0 to 1, over those whose prompts request something.

    compared: takes clips, and returns how far clips agree with the requests of clips, both by number.
    is_mean: whether that is a mean over clips, so that every clip has a value of its own.

    Beside it stand chance, the same for requests permuted at random, and the same of the reference's clips. Raises
    ValueError for fewer than two clips that request something.
    """
    subset = _rows(clips, requested)
    if len(subset) < 2:
        raise InvalidValue(f"Only {len(subset)} clips have a prompt that requests it: a metric needs at least 2.")
    agreement, each, upper_bound = compared(clips.select(subset)), torch.arange(len(subset)), None
    if reference and len(rows := _rows(reference, requested)) > 1:
        described = reference.select(rows)
        of_reference = compared(described)
        upper_bound = bootstrap_tracks(lambda a: of_reference(a, a), described.tracks(), seed=seed).clamp(0, 1)
    chance, warnings = permuted(partial(agreement, each), each, seed=seed), []
    if agreement(each, each) <= chance.high:
        warnings.append("Not above chance: the value is within the 95 % interval of randomly permuted requests.")
    if upper_bound is not None and upper_bound.low <= chance.value:
        warnings.append("The estimator does not exceed chance on real music, so this value says nothing.")
    return Statistic(
        lambda a: agreement(a, a),
        per_clip=torch.tensor([agreement(i, i) for i in each.split(1)], dtype=torch.float64) if is_mean else None,
        bounds=(0, 1),
        subset=subset,
        chance=chance,
        upper_bound=upper_bound,
        warnings=warnings,
        options=options or {},
    )


def _rows(clips: ClipEmbeddings, requested: Callable[[Prompt], Any]) -> list[int]:
    return [i for i, prompt in enumerate(clips.prompts) if requested(prompt) is not None]


def numbers_compared(
    agree: Agreement,
    requested: Callable[[Prompt], float | None],
    estimates: Callable[[ClipEmbeddings], Tensor] = lambda clips: clips.vectors[:, 0],
) -> Compared:
    """Return how far clips agree in a number each: the mean agreement of estimates with what is requested."""

    def compared(clips: ClipEmbeddings) -> Callable[[Tensor, Tensor], float]:
        wanted = torch.tensor([requested(prompt) for prompt in clips.prompts], dtype=torch.float64)
        estimated = estimates(clips).double()
        return lambda a, b: float(agree(estimated[a], wanted[b]).mean())

    return compared


def labels_compared(
    read: Callable[[ClipEmbeddings], tuple[Tensor, Tensor]], columns: Sequence[int], figure: Agreement
) -> Compared:
    """Return how far clips agree in labels: a figure of those read of clips and those requested, (n, k) each."""

    def compared(clips: ClipEmbeddings) -> Callable[[Tensor, Tensor], float]:
        labels, wanted = (each[:, list(columns)] for each in read(clips))
        return lambda a, b: figure(labels[a], wanted[b])

    return compared


def _instruments(clips: ClipEmbeddings, reference: ClipEmbeddings, *, seed: int) -> Statistic:
    """Accuracy of finding the requested instruments, with probes that one half of the reference trains.

    The same of the other half stands beside it. Raises ValueError where too few clips name instruments.
    """
    train, test = (_naming_instruments(half) for half in reference.halves(seed))
    if not len(train) or not len(test):
        raise InvalidValue("The reference does not say which instruments are played in it.")
    probes = fit_instrument_probes(train)
    return instrument_accuracy(clips, test, seed=seed, probes=probes)


def fit_instrument_probes(clips: ClipEmbeddings, *, at_least: int = MIN_CLIPS_WITH_INSTRUMENT) -> dict[str, Probe]:
    """Fit one probe for each instrument that the prompts of clips name, as in {"flute": Probe}.

    An instrument is left out unless `at_least` clips have it and as many do not. Raises ValueError if none is left.
    """
    played = [requested_instruments(prompt) or [] for prompt in clips.prompts]
    names = sorted({name for instruments in played for name in instruments})
    labels = {name: torch.tensor([name in instruments for instruments in played]).long() for name in names}
    usable = {name: has for name, has in labels.items() if at_least <= int(has.sum()) <= len(has) - at_least}
    if not usable:
        raise InvalidValue(
            f"A probe learns from at least {at_least} clips that play its instrument and {at_least} that do not, which "
            f"no instrument has among these {len(played)} clips. Add clips: an evaluation needs {4 * at_least} or more "
            "of the reference, because one half trains the probes."
        )
    return {name: Probe.fit(clips.grid(), has) for name, has in usable.items()}


def instrument_accuracy(
    clips: ClipEmbeddings, reference: ClipEmbeddings | None = None, *, seed: int, probes: Mapping[str, Probe]
) -> Statistic:
    """Mean over instruments of the balanced accuracy with which probes find those requested, and no others."""
    requests = [names for prompt in clips.prompts if (names := requested_instruments(prompt)) is not None]
    mixed = [i for i, name in enumerate(probes) if 0 < sum(name in names for names in requests) < len(requests)]
    if len(requests) > 1 and not mixed:
        raise InvalidValue("Every instrument is requested of all clips or of none: vary the prompts.")

    def mean_accuracy(predicted: Tensor, wanted: Tensor) -> float:
        return sum(map(balanced_accuracy, predicted.T, wanted.T)) / len(mixed)

    return agreement_with_prompts(
        clips,
        reference,
        seed=seed,
        compared=labels_compared(partial(_read_instruments, probes=probes), mixed, mean_accuracy),
        requested=requested_instruments,
        is_mean=False,
        options={"instruments": [list(probes)[i] for i in mixed], "probes": _probes_hash(probes)},
    )


def _read_instruments(clips: ClipEmbeddings, probes: Mapping[str, Probe]) -> tuple[Tensor, Tensor]:
    """What probes find and what is requested, (n, instruments) 0 or 1 each."""
    requests: list[Collection[str]] = [requested_instruments(prompt) or () for prompt in clips.prompts]
    estimated = torch.stack([probe.predict(clips.grid()) for probe in probes.values()], 1)
    return estimated, torch.tensor([[name in request for name in probes] for request in requests]).long()


def _probes_hash(probes: Mapping[str, Probe]) -> str:
    """Return a hash of what probes learned, 16 digits: trained on other music, they would find something else."""
    tensors = [tensor.contiguous().numpy().tobytes() for probe in probes.values() for tensor in probe]
    return hash_of(b"".join(tensors))[:16]


def _naming_instruments(clips: ClipEmbeddings) -> ClipEmbeddings:
    return clips.select([i for i, prompt in enumerate(clips.prompts) if requested_instruments(prompt) is not None])


def _metric(
    label: str,
    agree: Agreement,
    requested: Callable[[Prompt], Any],
    estimator: Callable[[], ClipEstimator],
    meaning: str,
) -> Metric:
    prepare = partial(agreement_with_prompts, compared=numbers_compared(agree, requested), requested=requested)
    own: Any = {"embedder": estimator, "requested": requested, "meaning": meaning}
    return Metric(label, prepare, "higher", compares="prompts", **own)


_octaves, _doubles = (partial(tempo_agreement, factors=factors) for factors in (OCTAVES, DOUBLES))
_mirex = partial(key_agreement, rule="mirex")
_tempo = partial(_metric, requested=requested_tempo, estimator=tempo_estimator)
_key = partial(_metric, requested=requested_key, estimator=key_estimator)
TEMPO_MEANING = "fraction of clips whose estimated tempo is within 4 % of the requested one"
MIREX_MEANING = (
    "mean score of the estimated key as in the MIREX competition: 1 for the requested key, 0.5 for one a fifth away, "
    "0.3 for its relative and 0.2 for its parallel key, else 0"
)
tempo = _tempo("tempo within 4 %", tempo_agreement, meaning=TEMPO_MEANING)
tempo_octave = _tempo(
    "tempo within 4 % or an octave", _octaves, meaning=f"{TEMPO_MEANING}, or of its double, triple, half or third"
)
tempo_double = _tempo(
    "tempo within 4 % or a factor of two", _doubles, meaning=f"{TEMPO_MEANING}, or of its double or half"
)
key = _key("key and mode", key_agreement, meaning="fraction of clips with the requested tonic and mode")
key_mirex = _key("key, MIREX weighted", _mirex, meaning=MIREX_MEANING)
mode = _key(
    "mode", partial(key_agreement, rule="mode"), meaning="fraction of clips that are in major or minor as requested"
)
instruments = Metric(
    "instruments",
    _instruments,
    "higher",
    compares="prompts",
    requested=requested_instruments,
    meaning="how often linear probes find the requested instruments and no others: 0.5 is chance, 1 is always",
    excludes_reference="It is made of clips of the reference, and these trained the probes that find instruments.",
)
