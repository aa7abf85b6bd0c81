"""Controls: what an audio file says over time, one token after the other, for music that is to follow it."""

from __future__ import annotations

import json
import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import librosa
import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields
from codecdiff.conditioners import audio_prompt_key, hash_values, load_audio_prompt
from codecdiff.errors import InvalidValue

SAMPLE_RATE = 22_050  # Hz
OCTAVES = 7  # from C1 to B7
LEVELS = -4.0, 2.0  # lowest and highest, in units of 10 dB relative to the mean power of a file


class Control(Conditioner):
    """A control, by the name under which a prompt's field `controls` has its audio file: `{"controls": {name: FILE}}`.

    The file may be any audio of a prompt: a path, a part of a file, or samples. A control has one token for every `hop`
    samples of it, and is absent without a file.
    """

    fields = ("controls",)
    name: str
    width: int
    hop: int  # samples at SAMPLE_RATE
    marker: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("marker", torch.empty(0), persistent=False)
        self._features: dict[str, np.ndarray] = {}  # (n, e) of the files of the last call

    @abstractmethod
    def features(self, audio: np.ndarray) -> np.ndarray | None:
        """Compute the tokens (n, e) of mono audio (t,) at SAMPLE_RATE, token n from n * hop on; None if it has none."""

    @property
    def widths(self) -> dict[str, int]:
        """Width of the one entry."""
        return {self.name: self.width}

    @property
    def control_rates(self) -> dict[str, float]:
        """Tokens of the one entry in a second."""
        return {self.name: SAMPLE_RATE / self.hop}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> tokens (n, m, e) of whole files. Raises InvalidValue and BadAudio for files without audio."""
        files = {self.key(prompt): self.file(prompt) for prompt in prompts}
        before, self._features = self._features, {}
        for key, file in files.items():
            self._features[key] = before[key] if key in before else self._read(file)
        rows = [torch.from_numpy(self._features[self.key(prompt)]) for prompt in prompts]
        longest = max([1, *map(len, rows)])
        tokens, mask = torch.zeros(len(rows), longest, self.width), torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return Condition({self.name: ConditionTokens(tokens, mask)}).to(self.marker.device)

    def file(self, prompt: Prompt) -> Any:
        """Return the audio of this control in a prompt; None without one."""
        controls = prompt_fields(prompt).get("controls") or {}
        if not isinstance(controls, Mapping):
            raise InvalidValue(
                f"controls={controls!r}: the field 'controls' of a prompt is a mapping of names of controls to audio "
                f"files, as in {{'{self.name}': 'song.wav'}}."
            )
        return controls.get(self.name) or None

    def _read(self, file: Any) -> np.ndarray:
        """Return the tokens (n, e) of an audio file; none without one."""
        nothing = np.zeros((0, self.width), np.float32)
        if file is None:
            return nothing
        audio = load_audio_prompt(file, SAMPLE_RATE).numpy()
        features = self.features(audio)
        if features is None:
            warnings.warn(f"The file has no {self.name}: this control is absent.", stacklevel=2)
            return nothing
        return np.ascontiguousarray(features[: -(-len(audio) // self.hop)], dtype=np.float32)

    def key(self, prompt: Prompt) -> str:
        """Describe the audio file by its content."""
        file = self.file(prompt)
        return "" if file is None else json.dumps(audio_prompt_key(file), sort_keys=True)

    def fingerprint(self) -> str:
        """Hash the options, and the version of librosa."""
        return hash_values(super().fingerprint(), version("librosa"))


def power_spectrogram(audio: np.ndarray, hop: int, n_fft: int) -> np.ndarray:
    """Return the power (f, n) of windows in the middle of every `hop` samples, at least one."""
    shifted = audio[hop // 2 :]
    padded = np.pad(shifted, (0, max(0, n_fft - len(shifted)) + hop))
    return np.abs(librosa.stft(padded, n_fft=n_fft, hop_length=hop)) ** 2


def level(power: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Return powers in units of 10 dB, relative to their mean along an axis."""
    mean = power.mean(axis=axis, keepdims=True)
    return np.clip(np.log10(np.maximum(power, 1e-12) / np.maximum(mean, 1e-9)), *LEVELS)


def semitones(audio: np.ndarray, hop: int) -> np.ndarray:
    """Return magnitudes (n, 84) of the semitones from C1 to B7, of audio (t,), in the middle of every `hop` samples.

    Source: Schörkhuber & Klapuri (2010), "Constant-Q transform toolbox for music processing", by librosa.
    """
    count = max(1, -(-len(audio) // hop))
    padded = np.pad(audio[hop // 2 :], (0, max(0, SAMPLE_RATE - len(audio)) + hop))  # the lowest filters are long
    lowest = librosa.note_to_hz("C1")
    transform = librosa.cqt(padded, sr=SAMPLE_RATE, hop_length=hop, fmin=lowest, n_bins=12 * OCTAVES, tuning=0.0)
    return np.abs(transform[:, :count].T)


def unit_mean_square(features: np.ndarray) -> np.ndarray:
    """Scale the features of a file to a mean square of 1. Silence stays zero."""
    return features / max(float(np.sqrt(np.square(features).mean())), 1e-4)


class Chroma(Control):
    """The levels of the 12 pitch classes, C first, at every moment: melody and harmony, in any octave.

    Each is the mean of the levels of its semitones in 7 octaves, in decibels above -60 relative to the loudest of the
    file. They are of unit mean square over the file, and zero in silence.

    Source: Müller (2015), "Fundamentals of Music Processing", Section 3.1.2.
    """

    name, width, hop = "chroma", 12, 512

    def features(self, audio: np.ndarray) -> np.ndarray:
        """(t,) -> (n, 12)."""
        magnitudes = semitones(audio, self.hop)
        loudest = max(float(magnitudes.max()), 1e-4)
        levels = np.maximum(0, 60 + 20 * np.log10(np.maximum(magnitudes / loudest, 1e-9)))
        return unit_mean_square(levels.reshape(-1, OCTAVES, 12).mean(axis=1))


class Notes(Control):
    """The strengths of the semitones from C1 to B7 at every moment: melody and harmony in their octaves.

    With overtones, they also say something of the instruments and the dynamics. They are square roots of magnitudes,
    so that soft notes count next to loud ones, of unit mean square over the file.
    """

    name, width, hop = "notes", 12 * OCTAVES, 512

    def features(self, audio: np.ndarray) -> np.ndarray:
        """(t,) -> (n, 84)."""
        return unit_mean_square(np.sqrt(semitones(audio, self.hop)))


class Beats(Control):
    """Where the beats are: sine and cosine of the position between two, and a pulse of 100 ms at each.

    Before the first beat and behind the last, they go on as they were. Audio without beats has none.

    Source: Ellis (2007), "Beat tracking by dynamic programming", by librosa.
    """

    name, width, hop = "beats", 3, 256

    def features(self, audio: np.ndarray) -> np.ndarray | None:
        """(t,) -> (n, 3)."""
        _, beats = librosa.beat.beat_track(y=audio, sr=SAMPLE_RATE, units="time", trim=False)
        times = (np.arange(-(-len(audio) // self.hop)) + 0.5) * self.hop / SAMPLE_RATE
        return beat_features(np.asarray(beats, dtype=np.float64), times)


def beat_features(beats: np.ndarray, times: np.ndarray) -> np.ndarray | None:
    """Return sine, cosine and pulse (n, 3) at times (n,), of beats (m,) in seconds; None for fewer than two."""
    if len(beats) < 2:
        return None
    number = np.interp(times, beats, np.arange(len(beats)))
    before, after = times < beats[0], times > beats[-1]
    number[before] = (times[before] - beats[0]) / (beats[1] - beats[0])
    number[after] = len(beats) - 1 + (times[after] - beats[-1]) / (beats[-1] - beats[-2])
    nearest = np.abs(times[:, None] - beats).min(1)
    waves = math.sqrt(2) * np.stack([np.sin(2 * np.pi * number), np.cos(2 * np.pi * number)], axis=1)
    return np.concatenate([waves, 4 * np.maximum(0, 1 - nearest / 0.05)[:, None]], axis=1)


class Loudness(Control):
    """How loud the music is at every moment, in units of 10 dB, A-weighted, relative to the mean of the file.

    It says what is loud and what is soft, and not how loud the whole is.
    """

    name, width, hop = "loudness", 1, 512

    def features(self, audio: np.ndarray) -> np.ndarray:
        """(t,) -> (n, 1)."""
        power = power_spectrogram(audio, self.hop, n_fft=2048)
        frequencies = np.maximum(librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=2048), 1.0)
        weights = librosa.db_to_power(librosa.A_weighting(frequencies))
        return level(uniform_filter1d(weights @ power, 9))[:, None]  # over 0.2 s


class AudioReference(Control):
    """The sound of a file as it changes: levels of frequency bands over time, which say what plays and not which notes.

    Args:
        bands: Number of mel bands. Few leave the pitch open.
        smooth_seconds: Duration that levels are averaged over.

    Raises:
        InvalidValue: Fewer than 1 or more than 80 bands, or a duration that is negative or above 60 s.

    """

    name, hop = "audio-reference", 2048

    def __init__(self, *, bands: int = 16, smooth_seconds: float = 1.0) -> None:
        super().__init__()
        if not 1 <= bands <= 80:
            raise InvalidValue(f"Invalid bands {bands}: expected 1 to 80.")
        if not 0 <= smooth_seconds <= 60:
            raise InvalidValue(f"Invalid smooth_seconds {smooth_seconds:g}: expected 0 to 60.")
        self.width, self.smooth_seconds = bands, smooth_seconds

    def features(self, audio: np.ndarray) -> np.ndarray:
        """(t,) -> (n, bands)."""
        power = power_spectrogram(audio, self.hop, n_fft=4096)
        bands = librosa.feature.melspectrogram(S=power, sr=SAMPLE_RATE, n_mels=self.width)
        size = max(1, round(self.smooth_seconds * SAMPLE_RATE / self.hop))
        smooth = uniform_filter1d(bands, size, axis=1)
        return level(smooth, axis=(0, 1)).T
