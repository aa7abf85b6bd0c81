"""Clips of validation tracks, and the embeddings of what codecs and models make of them.

Validation tracks are divided in two: those of the *reference*, to which distances are measured, and those that are
*evaluated*, whose captions and first stages models are prompted with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecdiff.config import DataConfig
from codecdiff.data import CodeStore, find_tracks, split_tracks, write_audio
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.interfaces import Embedder, Prompt
from codecdiff.pipeline import Pipeline
from codecdiff.rng import numpy_generator
from codecdiff_eval.compare.config import CompareEvalConfig
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, NOISE, REFERENCE, edit_mask_of, encode_clips, generate_sets
from codecdiff_eval.generation import Workers, read_clip, run_tasks

REAL = "real music"  # the evaluated clips as they are
REFERENCE_RECONSTRUCTION = "reference reconstruction"  # clips of the reference that the codec encoded and decoded
PROMPT = "prompt"  # what is generated to listen to, from other prompts
PROBE_TRAINING = "probe training"  # clips of training tracks that the codec encoded and decoded

Sets = Mapping[str, Tensor]  # embeddings (n, w, e), by the name of a set


@dataclass(frozen=True)
class Clip:
    """A clip of a track: where it starts in seconds, and the track's metadata with a caption as `text`."""

    track: str
    file: str
    start: float
    prompt: Mapping[str, Any]

    def controlled(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the prompt, with the audio of the clip as these controls."""
        audio = {"file": self.file, "start": self.start}
        return {**self.prompt, **({"controls": dict.fromkeys(names, audio)} if names else {})}


@dataclass(frozen=True)
class EvalSplit:
    """The clips of a comparison: of validation tracks those of the reference and evaluated ones, and of training ones.

    probe_training: what probes learn from, and generated clips may be copies of.
    """

    reference: tuple[Clip, ...]
    evaluated: tuple[Clip, ...]
    probe_training: tuple[Clip, ...]

    def is_alike(self, other: EvalSplit) -> bool:
        """Return whether the clips of validation tracks are the same."""
        splits = [(*split.reference, *split.evaluated) for split in (self, other)]
        mine, others = ([(clip.track, round(clip.start, 3)) for clip in clips] for clips in splits)
        return mine == others


def draw_split(store: CodeStore, data: DataConfig, config: CompareEvalConfig, split_seed: int) -> EvalSplit:
    """Draw clips from the tracks of a store.

    They follow from the seed and the tracks' contents, not from the codec of the store. Raises ValueError for too few
    validation tracks, FileNotFoundError where audio is missing.
    """
    if data.audio is None:
        raise MissingFile("Validation tracks are read as audio, not only as codes: set data.audio.")
    files = {track.name: str(track.file) for track in find_tracks(data.audio)}
    training, validation = split_tracks(store, data.validation_fraction, split_seed)
    tracks = _shuffle_tracks(store, validation, config.seed)
    if len(tracks) < 4:
        raise InvalidValue(
            f"There are {len(tracks)} validation tracks. Half of them are the reference of the others, so set "
            "data.validation_fraction for 4 or more, and for some dozens if intervals are to be informative."
        )
    draw, half = partial(_draw_clips, store, files, config), len(tracks) // 2
    return EvalSplit(
        draw(tracks[:half], config.reference, REFERENCE),
        draw(tracks[half:], config.clips, REAL),
        draw(_shuffle_tracks(store, training, config.seed), config.probe_training_clips, PROBE_TRAINING),
    )


def _shuffle_tracks(store: CodeStore, rows: Sequence[int], seed: int) -> list[list[int]]:
    """Return the rows of each track, tracks in an order that follows from the seed and their checksums."""
    by_checksum: dict[str, list[int]] = {}
    for i in rows:
        by_checksum.setdefault(store.rows[i]["checksum"], []).append(i)
    names = sorted(by_checksum)
    return [
        by_checksum[names[i]] for i in numpy_generator("codecdiff_eval.compare.tracks", seed).permutation(len(names))
    ]


def _draw_clips(
    store: CodeStore,
    files: Mapping[str, str],
    config: CompareEvalConfig,
    tracks: Sequence[Sequence[int]],
    count: int,
    set_name: str,
) -> tuple[Clip, ...]:
    """Draw a clip of each track, then another of each, until there are `count`."""
    rng, clips = numpy_generator("codecdiff_eval.compare.clips", set_name, config.seed), []
    for n in range(count):
        rows = tracks[n % len(tracks)]
        i = rows[int(rng.integers(len(rows)))]
        row, captions = store.rows[i], store.captions(i)
        if row["track"] not in files:
            raise MissingFile(f"'{row['track']}' is in the store, but not in data.audio: name its folder.")
        start = row["offset"] + rng.uniform(0, max(0.0, row["seconds"] - config.seconds))
        prompt = {**store.metadata(i), "text": captions[0] if captions else ""}
        clips.append(Clip(row["track"], files[row["track"]], start, prompt))
    return tuple(clips)


@dataclass(frozen=True)
class ClipWriter:
    """Embeds the sets of clips of one model, and writes the first of each set to a folder, to listen to.

    workers: generate what the model makes; None for this process.
    """

    pipeline: Pipeline
    embedder: Embedder
    config: CompareEvalConfig
    folder: Path
    workers: Workers | None = None

    def codec_sets(self, split: EvalSplit) -> dict[str, Tensor]:
        """Embed clips as they are, REAL and REFERENCE, and through the codec.

        Those are CODEC_RECONSTRUCTION, of the evaluated clips, REFERENCE_RECONSTRUCTION and PROBE_TRAINING.
        """
        rate, players, sets = self.embedder.sample_rate, self.config.players, {}
        for name, clips in {REAL: split.evaluated, REFERENCE: split.reference}.items():
            audio = _read(clips, self.config.seconds, rate, 1)
            sets[name] = self._embed(name, audio, rate, players if name == REAL else 0)
        for name, clips in {
            CODEC_RECONSTRUCTION: split.evaluated,
            REFERENCE_RECONSTRUCTION: split.reference,
            PROBE_TRAINING: split.probe_training,
        }.items():
            codes = encode_clips(self.pipeline.codec, self._read_for_codec(clips))
            sets[name] = self._embed_codes(name, codes, players if name == CODEC_RECONSTRUCTION else 0)
        return sets

    def model_sets(self, split: EvalSplit, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embed what the model generates from the evaluated clips, and write what it generates from `prompts`."""
        config, size = self.config, self.pipeline.generation_config.batch_size  # as many as are sampled at once
        clips, texts = split.evaluated, [{"text": prompt} for prompt in prompts]
        tasks = [partial(_generate_sets, config, clips[i : i + size], i) for i in range(0, len(clips), size)]
        tasks += [partial(_generate_prompts, config, texts[i : i + size], i) for i in range(0, len(texts), size)]
        parts = [codes for _, codes in sorted(run_tasks(tasks, self.pipeline, self.workers), key=itemgetter(0))]
        codes = {name: torch.cat([part[name] for part in parts if name in part]) for name in (parts[0] | parts[-1])}
        if prompts:
            self._write(PROMPT, self._decode(codes.pop(PROMPT)), self.pipeline.sample_rate, len(prompts))
        return {name: self._embed_codes(name, each, config.players) for name, each in codes.items()}

    def _read_for_codec(self, clips: Sequence[Clip]) -> Tensor:
        return _read_for_codec(clips, self.pipeline, self.config.seconds)

    def _decode(self, codes: Tensor) -> Tensor:
        samples = round(self.config.seconds * self.pipeline.sample_rate)
        return self.pipeline.decode(list(codes.split(1)), samples).clamp(-1, 1)

    def _embed_codes(self, name: str, codes: Tensor, players: int) -> Tensor:
        return self._embed(name, self._decode(codes), self.pipeline.sample_rate, players)

    def _embed(self, name: str, audio: Tensor, sample_rate: int, players: int) -> Tensor:
        """(n, ch, t) audio -> (n, w, e); the first `players` are written as NAME-00.flac and so on."""
        self._write(name, audio, sample_rate, players)
        return ClipEmbeddings.of_audio(self.embedder, audio, sample_rate).grid()

    def _write(self, name: str, audio: Tensor, sample_rate: int, count: int) -> None:
        for i, clip in enumerate(audio[:count]):
            write_audio(player_file(self.folder, name, i), clip, sample_rate)


def _read(clips: Sequence[Clip], seconds: float, sample_rate: int, channels: int) -> Tensor:
    """Read clips as (n, ch, t)."""
    return torch.stack([read_clip(Path(c.file), c.start, seconds, sample_rate, channels) for c in clips])


def _read_for_codec(clips: Sequence[Clip], pipeline: Pipeline, seconds: float) -> Tensor:
    return _read(clips, seconds, pipeline.sample_rate, pipeline.codec.channels)


def _generate_sets(
    config: CompareEvalConfig, clips: Sequence[Clip], first: int, pipeline: Pipeline
) -> dict[str, Tensor]:
    """Return the codes (n, k, l) on the CPU of what the model makes of clips, by set; `first` is the index of one."""
    source = edit_mask_of(pipeline, _read_for_codec(clips, pipeline, config.seconds))
    rates = pipeline.conditioner.control_rates if pipeline.conditioner else {}
    prompts = [clip.controlled([name for name in config.controls if name in rates]) for clip in clips]
    options = {"seed": config.seed, "first_sample_index": first}
    sets = generate_sets(pipeline, prompts, source, **options)
    return {name: sets.get_set(name).cpu() for name in sets if name not in (CODEC_RECONSTRUCTION, NOISE)}


def _generate_prompts(
    config: CompareEvalConfig, prompts: Sequence[Prompt], first: int, pipeline: Pipeline
) -> dict[str, Tensor]:
    """Return the codes (n, k, l) on the CPU of what the model makes of prompts to listen to."""
    options: Any = {"seed": config.seed, "first_sample_index": first}
    return {PROMPT: torch.cat(list(pipeline.generate_codes(prompts, pipeline.frames(config.seconds), **options))).cpu()}


def player_file(folder: Path, name: str, i: int) -> Path:
    """Return the file of the i-th clip of a set."""
    return folder / f"{name.replace(' ', '-')}-{i:02d}.flac"
