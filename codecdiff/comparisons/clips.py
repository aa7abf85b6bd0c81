"""Clips to judge: held-out recordings, and what codecs and models make of them and of their captions.

Held-out recordings are divided in two: those of the *reference*, which distances are measured to, and those that are
*asked* for, whose captions and coarse stages are given to models. Of every run there are as many sets as stages:

    given-0   everything is generated from the captions: the cascade
    given-1   the first stage is true, the others are generated from it and the captions
    given-2   the first two are true...

and of every codec `ceiling`, the asked clips encoded and decoded; nothing that is generated with it can be better.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from codecdiff.comparisons.settings import Evaluation
from codecdiff.data.audio import BadAudio, write_audio
from codecdiff.data.code_store import CodeStore, load_state
from codecdiff.data.dataset import split_tracks
from codecdiff.data.metadata import find_tracks
from codecdiff.files import atomic_write, atomic_write_text
from codecdiff.interfaces import Embedder
from codecdiff.pipeline.editing import EditMask, of_first_stages
from codecdiff.pipeline.pipeline import Pipeline

AT_ONCE = 8  # clips that are heard or encoded together

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Clip:
    """A clip of a recording: where it is, and what is said of it."""

    recording: str  # its name
    file: str
    start: float  # seconds
    prompt: Mapping[str, Any]  # its metadata, and a caption as `text`


@dataclass(frozen=True)
class Chosen:
    """The clips that are judged: of the reference, those asked for, and lessons, of recordings that are trained on."""

    reference: tuple[Clip, ...]
    asked: tuple[Clip, ...]
    lessons: tuple[Clip, ...]

    @classmethod
    def read(cls, file: Path) -> Chosen:
        """Read what `write` wrote."""
        told = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{key: tuple(Clip(**clip) for clip in told[key]) for key in told})

    def write(self, file: Path) -> None:
        """Write the clips as JSON."""
        atomic_write_text(file, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def choose(store: CodeStore, audio: Path | None, held_out: float, asked: Evaluation, split_seed: int) -> Chosen:
    """Draw the clips that all models are judged by from the recordings of a store.

    What is drawn follows from the seed and the recordings' contents, not from the codec of the store. Raises
    ValueError if too few are held out, FileNotFoundError where recordings are not there.
    """
    if audio is None:
        raise FileNotFoundError("Held-out recordings are heard, not only their codes: say where they are, data.audio.")
    files = {track.name: str(track.file) for track in find_tracks(audio)}
    training, held = split_tracks(store, held_out, split_seed)
    recordings = _shuffled(sorted({store.rows[i]["checksum"] for i in held}), asked.seed)
    if len(recordings) < 4:
        raise ValueError(
            f"{len(recordings)} recordings are held out. Half of them are the reference of the other half, so hold out "
            "4 or more, and some dozens for intervals that tell something: data.validation_fraction."
        )
    half = len(recordings) // 2
    places = _by_recording(store, [*held, *training])
    drawn = partial(_drawn, store, files, places, asked)
    return Chosen(
        drawn(recordings[:half], asked.reference, 1),
        drawn(recordings[half:], asked.clips, 2),
        drawn(_shuffled(sorted({store.rows[i]["checksum"] for i in training}), asked.seed), asked.lessons, 3),
    )


def _shuffled(names: list[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng([seed, 0]).permutation(len(names))]


def _by_recording(store: CodeStore, rows: Sequence[int]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for i in rows:
        places.setdefault(store.rows[i]["checksum"], []).append(i)
    return places


def _drawn(
    store: CodeStore,
    files: Mapping[str, str],
    places: Mapping[str, list[int]],
    asked: Evaluation,
    recordings: Sequence[str],
    count: int,
    stream: int,
) -> tuple[Clip, ...]:
    """Draw a clip of each recording, going round them until there are enough."""
    rng, clips = np.random.default_rng([asked.seed, stream]), []
    for n in range(count):
        rows = places[recordings[n % len(recordings)]]
        i = rows[int(rng.integers(len(rows)))]
        row, captions, metadata = store.rows[i], store.captions(i), store.metadata(i)
        if row["track"] not in files:
            raise FileNotFoundError(f"'{row['track']}' is in the store, and not in the folder of data.audio.")
        start = row["offset"] + rng.uniform(0, max(0.0, row["seconds"] - asked.seconds))
        prompt = {**metadata, "text": captions[0] if captions else ""}
        clips.append(Clip(row["track"], files[row["track"]], start, prompt))
    return tuple(clips)


@dataclass(frozen=True)
class Ear:
    """How clips are heard: by an embedder, mono, at its sample rate."""

    embedder: Embedder
    device: torch.device

    def hear(self, audio: Tensor, sample_rate: int) -> Tensor:
        """(n, ch, t) audio -> (n, w, e) vectors."""
        mono = audio.float().mean(1)
        if sample_rate != self.embedder.sample_rate:
            rows = [soxr.resample(row.numpy(), sample_rate, self.embedder.sample_rate) for row in mono.cpu()]
            mono = torch.from_numpy(np.stack(rows).astype(np.float32))
        return torch.cat([self.embedder.embed(some.to(self.device)).cpu() for some in mono.split(AT_ONCE)])


def read_clip(file: Path, start: float, seconds: float, sample_rate: int, channels: int) -> Tensor:
    """Read a clip of an audio file from `start` on as (ch, t), whatever the length of the file. Raises BadAudio."""
    try:
        with soundfile.SoundFile(file) as stream:
            rate = stream.samplerate
            stream.seek(min(round(start * rate), stream.frames))
            samples = stream.read(math.ceil(seconds * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise BadAudio(f"'{file}' cannot be read as audio: {str(error).rstrip('.')}.") from error
    if samples.shape[1] != channels:
        samples = samples.mean(1, keepdims=True).repeat(channels, 1)
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate).astype(np.float32)
    audio, size = torch.from_numpy(np.ascontiguousarray(samples.T)).clamp(-1, 1), round(seconds * sample_rate)
    return pad(audio[:, :size], (0, max(0, size - audio.shape[1])))


def load_clips(clips: Sequence[Clip], seconds: float, sample_rate: int, channels: int) -> Tensor:
    """Read clips as (n, ch, t)."""
    return torch.stack([read_clip(Path(clip.file), clip.start, seconds, sample_rate, channels) for clip in clips])


def digest_of(*told: Any) -> str:
    """Hash what JSON can hold, and paths."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Heard:
    """A file of what was heard: sets of vectors (n, w, e) by name, and a digest of all that they follow from."""

    file: Path
    digest: str

    @property
    def is_there(self) -> bool:
        """Tell whether the file is there and is of this digest."""
        if not self.file.is_file():
            return False
        with safe_open(self.file, "pt") as opened:
            return (opened.metadata() or {}).get("digest") == self.digest

    def save(self, sets: Mapping[str, Tensor]) -> None:
        """Write sets."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.file) as temporary:
            save_file(
                {name: vectors.contiguous() for name, vectors in sets.items()}, temporary, {"digest": self.digest}
            )

    def load(self) -> dict[str, Tensor]:
        """Read the sets."""
        return load_state(self.file)


def write_players(folder: Path, name: str, audio: Tensor, sample_rate: int, count: int) -> None:
    """Write the first clips of a set to listen to, NAME-00.flac and so on."""
    for i, clip in enumerate(audio[:count]):
        write_audio(folder / f"{name}-{i:02d}.flac", clip, sample_rate)


def hear_codec(pipeline: Pipeline, chosen: Chosen, asked: Evaluation, ear: Ear, folder: Path, heard: Heard) -> None:
    """Hear what a codec makes of the chosen clips, and the clips themselves.

    real, reference: the asked clips and those of the reference as they are.
    ceiling, fresh, lessons: the asked clips, those of the reference and the lessons, encoded and decoded.
    """
    rate, channels = pipeline.sample_rate, pipeline.codec.channels
    load = partial(load_clips, seconds=asked.seconds, sample_rate=rate, channels=channels)
    sets = {}
    for name, clips in {"real": chosen.asked, "reference": chosen.reference}.items():
        audio = load_clips(clips, asked.seconds, ear.embedder.sample_rate, 1)
        sets[name] = ear.hear(audio, ear.embedder.sample_rate)
        write_players(folder, name, audio, ear.embedder.sample_rate, asked.players if name == "real" else 0)
    for name, clips in {"ceiling": chosen.asked, "fresh": chosen.reference, "lessons": chosen.lessons}.items():
        audio = _decoded(pipeline, [pipeline.codec.encode(clip[None]) for clip in load(clips)], asked.seconds)
        sets[name] = ear.hear(audio, rate)
        write_players(folder, name, audio, rate, asked.players if name == "ceiling" else 0)
    heard.save(sets)


def hear_model(
    pipeline: Pipeline, chosen: Chosen, asked: Evaluation, ear: Ear, folder: Path, heard: Heard, prompts: Sequence[str]
) -> None:
    """Hear what a model makes of the asked clips: `given-0`, `given-1`..., as the module says."""
    rate, count = pipeline.sample_rate, len(pipeline.stage_names)
    frames, texts = pipeline.frames(asked.seconds), [clip.prompt for clip in chosen.asked]
    audio = load_clips(chosen.asked, asked.seconds, rate, pipeline.codec.channels)
    truth = _known(pipeline, audio) if count > 1 else None
    sets = {}
    for kept in range(count):
        known = None
        if kept and truth is not None:
            known = truth.keep(of_first_stages(pipeline.splitter, pipeline.codec, frames, kept))
        codes = list(pipeline.generate_codes(texts, frames, seed=asked.seed, known=known))
        made = _decoded(pipeline, codes, asked.seconds)
        sets[f"given-{kept}"] = ear.hear(made, rate)
        write_players(folder, f"given-{kept}", made, rate, asked.players)
    if prompts:
        free = _decoded(pipeline, list(pipeline.generate_codes(_told(prompts), frames, seed=asked.seed)), asked.seconds)
        write_players(folder, "prompt", free, rate, len(prompts))
    heard.save(sets)


def _told(prompts: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": prompt} for prompt in prompts]


def _known(pipeline: Pipeline, audio: Tensor) -> EditMask:
    """Give what is true of clips (n, ch, t), as the model would sample them if it were perfect."""
    parts = [EditMask.of_audio(pipeline.codec, clip[None], pipeline.target) for clip in audio]
    codes, latents = (torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "latents"))
    return EditMask(codes, latents, torch.zeros_like(codes, dtype=torch.bool))


def _decoded(pipeline: Pipeline, codes: Sequence[Tensor], seconds: float) -> Tensor:
    return pipeline.decode(codes, round(seconds * pipeline.sample_rate)).clamp(-1, 1)
