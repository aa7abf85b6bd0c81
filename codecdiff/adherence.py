"""Whether music keeps to what was asked of it: tempo, key and mode, instruments.

A *reading* is what was heard in each clip; a score is how often it agrees with what was asked, beside the same for
facts dealt at random (`chance`) and, where real clips are given, for them and their own facts (`ceiling`). Readers err:
where the ceiling is low, the reader cannot tell, and neither can the score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from codecdiff.embedded import Embedded, by_recording
from codecdiff.interfaces import Prompt
from codecdiff.metrics import Estimate, Probe, balanced_accuracy, bootstrap_recordings, shuffled
from codecdiff.protocols import Hearing, Protocol, digest_of, prompts_hash
from codecdiff.scores import RESAMPLES, Interval, Score, share

SAMPLE_RATE = 22_050  # Hz, at which tempo and key are read
HOP_LENGTH = 256  # audio samples between frames of onset strength: 1.7 % of a beat at 90 beats per minute
TEMPO_TOLERANCE = 0.04  # of the tempo asked for
OCTAVES = (1, 2, 1 / 2, 3, 1 / 3)  # factors by which listeners, too, disagree on a tempo
TONICS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)  # Krumhansl & Kessler (1982)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
SILENCE = 1e-4  # peak amplitude under which nothing is read: -80 dB

KeyRule = Literal["exact", "mode", "mirex"]
Clips = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Reading:
    """What was heard in each clip of a set: `values` (n,), NaN where nothing was."""

    hearing: Hearing
    names: Sequence[str]
    values: Tensor
    prompts: Sequence[Prompt] = ()
    seeds: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


def estimate_tempo(audio: Tensor) -> float:
    """(t,) audio at 22,050 Hz -> beats per minute, NaN for silence.

    The peak of the autocorrelation of onset strength in windows of 8 s, averaged over the clip, with a prior around 120
    (librosa.feature.tempo).
    """
    if not _is_heard(audio):
        return math.nan
    librosa = _librosa()
    strength = librosa.onset.onset_strength(y=audio.numpy(), sr=SAMPLE_RATE, hop_length=HOP_LENGTH)
    return float(librosa.feature.tempo(onset_envelope=strength, sr=SAMPLE_RATE, hop_length=HOP_LENGTH)[0])


def estimate_key(audio: Tensor) -> float:
    """(t,) audio at 22,050 Hz -> key 0...23 as `key_of_chroma` numbers them, NaN for silence."""
    if not _is_heard(audio):
        return math.nan
    chroma = _librosa().feature.chroma_cqt(y=audio.numpy(), sr=SAMPLE_RATE)
    return float(key_of_chroma(torch.from_numpy(chroma).double().mean(1)))


def key_of_chroma(chroma: Tensor) -> int:
    """(12,) strength of each pitch class from C -> key: the tonic, 0 for C, plus 12 if minor.

    The key whose profile correlates best with it (Krumhansl 1990, "Cognitive foundations of musical pitch").
    """
    profiles = torch.tensor([MAJOR, MINOR], dtype=torch.float64)
    keys = torch.stack([profile.roll(tonic) for profile in profiles for tonic in range(12)])
    return int(torch.corrcoef(torch.cat([chroma.double()[None], keys]))[0, 1:].argmax())


def key_number(text: str, mode: str = "") -> int:
    """Read "C# minor", "Bbm", "f♯ min" or "E flat" as a key 0...23, major where neither it nor `mode` says.

    Raises ValueError for what is no key.
    """
    pattern = r"\s*([a-g])\s*(#|♯|b|♭|sharp|flat)?\s*(m|maj|min|major|minor)?\s*"
    match = re.fullmatch(pattern, re.sub(r"[-_:]", " ", text), re.IGNORECASE)
    if not match:
        raise ValueError(f"'{text}' is no key. Say it as 'C# minor', 'Bb' or 'Am'.")
    letter, accidental, own_mode = ((part or "").lower() for part in match.groups())
    is_minor = (own_mode or mode.lower()) in ("m", "min", "minor") and match[3] != "M"
    return (TONICS[letter] + ACCIDENTALS[accidental]) % 12 + 12 * is_minor


def tempo_number(text: str | float) -> float:
    """Read 120, "120" or "120 BPM" as beats per minute. Raises ValueError for what is no positive number."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:bpm)?\s*", str(text), re.IGNORECASE)
    if not found or not float(found[1]) > 0:
        raise ValueError(f"'{text}' is no tempo. Say it in beats per minute, as 120.")
    return float(found[1])


def read_tempos(clips: Clips, *, clip_seconds: float | None = None, prompts: Sequence[Prompt] = ()) -> Reading:
    """Estimate the tempo of every clip, a name and mono audio (t,) at 22,050 Hz each.

    Raises ImportError, naming the extra, without librosa.
    """
    return _read("librosa-tempo", estimate_tempo, clips, clip_seconds, prompts, hop_length=HOP_LENGTH)


def read_keys(clips: Clips, *, clip_seconds: float | None = None, prompts: Sequence[Prompt] = ()) -> Reading:
    """Estimate the key of every clip, a name and mono audio (t,) at 22,050 Hz each.

    Raises ImportError, naming the extra, without librosa.
    """
    return _read("librosa-key", estimate_key, clips, clip_seconds, prompts, profiles="Krumhansl-Kessler")


def tempo_agreement(read: Tensor, asked: Tensor, *, octaves: bool = False) -> Tensor:
    """(n,) tempos read and asked for -> 1 where they agree to within 4 %, else 0; NaN never agrees.

    Accuracy 1 of Gouyon et al. (2006); with `octaves` their accuracy 2, which takes twice, thrice, half and a third.
    """
    factors = torch.tensor(OCTAVES if octaves else (1,), dtype=torch.float64)
    targets = asked.double()[:, None] * factors
    return ((read.double()[:, None] - targets).abs() <= TEMPO_TOLERANCE * targets).any(1).double()


def key_agreement(read: Tensor, asked: Tensor, rule: KeyRule = "exact") -> Tensor:
    """(n,) keys read and asked for -> how far they agree, 0 to 1; NaN never agrees.

    "exact": tonic and mode. "mode": major or minor alone. "mirex": 1 for the same key, 0.5 for one a fifth off in
    either direction, 0.3 for the relative, 0.2 for the parallel one (MIREX, audio key detection).
    """
    same_mode = (read >= 12) == (asked >= 12)
    steps = (read - asked).remainder(12)
    agreement = (same_mode if rule == "mode" else same_mode & (steps == 0)).double()
    if rule == "mirex":
        up_to_relative = torch.where(asked >= 12, 3, 9)  # semitones from a key's tonic to that of its relative
        agreement[same_mode & ((steps == 7) | (steps == 5))] = 0.5
        agreement[~same_mode & (steps == up_to_relative)] = 0.3
        agreement[~same_mode & (steps == 0)] = 0.2
    return torch.where(read.isnan() | asked.isnan(), 0.0, agreement)


def tempo_score(
    reading: Reading,
    asked: Sequence[float | None],
    *,
    octaves: bool = False,
    ceiling: tuple[Reading, Sequence[float | None]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Score:
    """Share of clips with the tempo asked for, in beats per minute; None where none was. `ceiling`: of real clips."""
    name = "tempo within 4 % or an octave" if octaves else "tempo within 4 %"
    agree = partial(tempo_agreement, octaves=octaves)
    return _agreement_score(name, agree, reading, asked, ceiling, resamples, seed)


def key_score(
    reading: Reading,
    asked: Sequence[int | None],
    *,
    rule: KeyRule = "exact",
    ceiling: tuple[Reading, Sequence[int | None]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Score:
    """Mean agreement of clips with the key asked for (`key_number`); None where none was. `ceiling`: of real clips."""
    name = {"exact": "key and mode", "mode": "mode", "mirex": "key, MIREX weighted"}[rule]
    return _agreement_score(name, partial(key_agreement, rule=rule), reading, asked, ceiling, resamples, seed)


def fit_instruments(lessons: Embedded, played: Sequence[Collection[str]], *, least: int = 8) -> dict[str, Probe]:
    """Fit one probe for each instrument to clips of one length, given what is played in each.

    An instrument is left out unless `least` clips have it and as many do not. Raises ValueError if none is left.
    """
    names = sorted({name for instruments in played for name in instruments})
    labels = {name: torch.tensor([name in instruments for instruments in played]).long() for name in names}
    usable = {name: has for name, has in labels.items() if least <= int(has.sum()) <= len(has) - least}
    if not usable:
        raise ValueError(
            f"No instrument is played in at least {least} of {len(played)} clips and absent from as many: give more."
        )
    return {name: Probe.fit(lessons.grid(), has) for name, has in usable.items()}


def instrument_score(
    probes: Mapping[str, Probe],
    judged: Embedded,
    asked: Sequence[Collection[str] | None],
    *,
    ceiling: tuple[Embedded, Sequence[Collection[str] | None]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Score:
    """Mean over instruments of the balanced accuracy with which those asked for are found, and no others.

    `asked` names the instruments of each clip, all of them; None where nobody said. `ceiling`: of real clips.
    """
    read, wanted, clips = _instruments(probes, judged, asked)
    mixed = [i for i, column in enumerate(wanted.T) if 0 < column.sum() < len(column)]
    if not mixed:
        raise ValueError("Every instrument is asked of all clips or of none, so nothing can be told. Vary the prompts.")

    def statistic(read: Tensor, wanted: Tensor) -> float:
        return sum(balanced_accuracy(read[:, i], wanted[:, i]) for i in mixed) / len(mixed)

    best = None
    if ceiling is not None:
        best = _estimate(statistic, *_instruments(probes, *ceiling), resamples, seed)
    names = [list(probes)[i] for i in mixed]
    facts = Protocol(
        judged.hearing,
        clips=len(read),
        windows=len(judged.vectors),
        prompts=prompts_hash(judged.prompts),
        options={"instruments": names, "probes": _digest(probes)},
        seeds={**judged.seeds, "interval": seed},
    )
    return _compared("instruments", statistic, read, wanted, clips, facts, best, resamples, seed)


def _digest(probes: Mapping[str, Probe]) -> str:
    """Give a hash of what probes learned, 16 digits: taught by others' music, they would hear otherwise."""
    tensors = [tensor.contiguous().numpy().tobytes() for probe in probes.values() for tensor in probe]
    return digest_of(b"".join(tensors))[:16]


def _instruments(
    probes: Mapping[str, Probe], judged: Embedded, asked: Sequence[Collection[str] | None]
) -> tuple[Tensor, Tensor, Sequence[str]]:
    """What probes hear and what was asked, (n, instruments) 0 or 1 each, of the clips of which something was asked.

    The names of these clips come third.
    """
    known = _known(asked, len(judged))
    told = judged.select(known)
    grid = told.grid()
    read = torch.stack([probe.predict(grid) for probe in probes.values()], 1)
    wanted = torch.tensor([[name in (asked[i] or ()) for name in probes] for i in known]).long()
    return read, wanted, told.names


def _read(
    name: str,
    estimate: Callable[[Tensor], float],
    clips: Clips,
    clip_seconds: float | None,
    prompts: Sequence[Prompt],
    **options: Any,
) -> Reading:
    _librosa()
    reader = {"name": name, "librosa": metadata.version("librosa"), **options}
    hearing = Hearing(reader, "", SAMPLE_RATE, clip_seconds, None, None, windows="the clip as a whole")
    heard = [(label, estimate(audio.float().cpu())) for label, audio in clips]
    values = torch.tensor([value for _, value in heard], dtype=torch.float64)
    return Reading(hearing, [label for label, _ in heard], values, prompts)


def _agreement_score(
    name: str,
    agree: Callable[[Tensor, Tensor], Tensor],
    reading: Reading,
    asked: Sequence[float | None],
    ceiling: tuple[Reading, Sequence[float | None]] | None,
    resamples: int,
    seed: int,
) -> Score:
    def statistic(read: Tensor, wanted: Tensor) -> float:
        return float(agree(read, wanted).mean())

    def facts_of(reading: Reading, asked: Sequence[float | None]) -> tuple[Tensor, Tensor, list[str]]:
        known = _known(asked, len(reading))
        wanted = torch.tensor([asked[i] for i in known], dtype=torch.float64)
        return reading.values[known], wanted, [reading.names[i] for i in known]

    read, wanted, clips = facts_of(reading, asked)
    best = None if ceiling is None else _estimate(statistic, *facts_of(*ceiling), resamples, seed)
    per_clip = dict(zip(clips, agree(read, wanted).tolist(), strict=True))
    protocol = Protocol(
        reading.hearing,
        clips=len(clips),
        windows=len(clips),
        prompts=prompts_hash(reading.prompts),
        seeds={**reading.seeds, "interval": seed},
    )
    return _compared(name, statistic, read, wanted, clips, protocol, best, resamples, seed, per_clip)


def _known(asked: Sequence[Any], n: int) -> list[int]:
    """Give the numbers of the clips of which something was asked."""
    if len(asked) != n:
        raise ValueError(f"{n} clips were heard, but facts of {len(asked)} were asked for: give one each, or None.")
    known = [i for i, fact in enumerate(asked) if fact is not None]
    if len(known) < 2:
        raise ValueError(f"Only {len(known)} clips have a fact that was asked for: a score needs at least 2.")
    return known


def _estimate(
    statistic: Callable[[Tensor, Tensor], float],
    read: Tensor,
    wanted: Tensor,
    clips: Sequence[str],
    resamples: int,
    seed: int,
) -> Estimate:
    """Resample the recordings of clips, each clip with what was heard in it and what was asked of it."""

    def of_drawn(drawn: Tensor) -> float:
        return statistic(read[drawn], wanted[drawn])

    return share(bootstrap_recordings(of_drawn, by_recording(clips), resamples=resamples, seed=seed))


def _compared(
    name: str,
    statistic: Callable[[Tensor, Tensor], float],
    read: Tensor,
    wanted: Tensor,
    clips: Sequence[str],
    protocol: Protocol,
    ceiling: Estimate | None,
    resamples: int,
    seed: int,
    per_clip: Mapping[str, float] | None = None,
) -> Score:
    """Put a score beside chance, and say where it tells nothing."""
    estimate = _estimate(statistic, read, wanted, clips, resamples, seed)
    chance = shuffled(partial(statistic, read), wanted, seed=seed)
    warnings = []
    if estimate.value <= chance.high:
        warnings.append(f"No better than chance: facts dealt at random score up to {chance.high:.3g}.")
    if ceiling is not None and ceiling.low <= chance.value:
        warnings.append("The reader finds the facts of real clips no better than chance, so it tells nothing here.")
    over = f"{len(by_recording(clips))} judged recordings"
    interval = Interval(estimate.low, estimate.high, over=over, resamples=resamples)
    return Score(name, estimate.value, interval, protocol, "higher", tuple(warnings), chance, ceiling, per_clip or {})


def _is_heard(audio: Tensor) -> bool:
    return bool(audio.numel()) and float(audio.abs().max()) > SILENCE


def _librosa() -> ModuleType:
    try:
        import librosa
    except ImportError as error:
        raise ImportError("Tempo and key are read by librosa: pip install 'codecdiff[adherence]'.") from error
    return librosa
