"""Renditions: the clips that a model makes to be judged, each a file that says how it was made.

A folder of them fills clip by clip, each written whole, so a run that is killed goes on where it was. A clip follows
from the model, its prompt and the seed: whatever other prompts there are, it is the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.nn.functional import pad

from codecdiff import __version__
from codecdiff.data.audio import BadAudio, Track, keeps_comment, write_audio
from codecdiff.data.prompts import FACTS, Asked, prompt_of
from codecdiff.files import remembered_checksum, replace_text, sha256
from codecdiff.interfaces import Codec
from codecdiff.pipeline.editing import Edit, Refine, first_stage_mask, levels_mask
from codecdiff.pipeline.pipeline import GenerationConfig, Pipeline
from codecdiff.pipeline.provenance import GenerationRequest
from codecdiff.protocols import digest_of

SUFFIX = ".flac"  # whose comment has room for long prompts


@dataclass(frozen=True)
class Rendition:
    """A clip to be made: the name of its file, all it follows from, and the source that it is made out of, if any.

    asked: the prompt, with the facts of the source.
    """

    name: str
    request: GenerationRequest
    asked: Mapping[str, Any]
    source: Path | None = None

    def is_in(self, folder: Path) -> bool:
        """Tell whether the folder has this clip. Raises FileExistsError if it has another by that name."""
        file = folder / self.name
        if not file.exists():
            return False
        try:
            told = GenerationRequest.from_file(file)
        except ValueError:
            told = None
        if told is None or told.model_copy(update={"codecdiff": __version__}) != self.request:
            raise FileExistsError(
                f"'{file}' is not what is asked for: another model, prompt, seed or length made it. "
                "Choose another output folder, or delete that one."
            )
        return True


def generated(
    pipeline: Pipeline,
    prompts: Sequence[Asked],
    *,
    seconds: float,
    seed: int = 0,
    **sampling: Any,
) -> list[Rendition]:
    """Ask a model for a clip of every prompt, with a seed that follows from `seed` and the prompt alone."""
    pipeline.frames(seconds)  # absurd ones are refused
    read = pipeline.conditioner.fields if pipeline.conditioner else ()
    model = pipeline.fingerprint or ""
    return [
        Rendition(
            f"{prompt.number:06d}-{prompt.digest}{SUFFIX}",
            GenerationRequest(
                codecdiff=__version__,
                model=model,
                prompt=dict(prompt.kept(read).fields),
                seconds=seconds,
                generation=GenerationConfig(seed=prompt.seed(seed), **sampling),
            ),
            prompt.kept((*read, *_named(prompt))).fields,
        )
        for prompt in prompts
    ]


def _named(prompt: Asked) -> list[str]:
    """Give the field of instruments if the text names them all: a model that reads text alone is asked for them too."""
    text, instruments = str(prompt.fields.get("text", "")).casefold(), prompt.fields.get("instruments")
    named = isinstance(instruments, list) and all(str(name).casefold() in text for name in instruments)
    return ["instruments"] if named and instruments else []


def reconstructed(pipeline: Pipeline, sources: Sequence[Track]) -> list[Rendition]:
    """Ask for what the codec makes of every source: all levels are kept, and nothing is sampled."""
    return _edited(pipeline, sources, Refine(keep=tuple(sorted(set(pipeline.codec.levels)))))


def completed(
    pipeline: Pipeline,
    sources: Sequence[Track],
    *,
    seed: int = 0,
    **sampling: Any,
) -> list[Rendition]:
    """Ask for every source with the first stage as it is, and the later ones made anew to its caption.

    Raises ValueError for a model of one stage, and for one whose stages do not make whole levels.
    """
    if len(pipeline.stage_names) == 1:
        raise ValueError("The model has one stage.")
    first = first_stage_mask(pipeline.splitter, pipeline.codec)
    keep = tuple(sorted({level for level, made in zip(pipeline.codec.levels, first.flatten(), strict=True) if made}))
    if not torch.equal(levels_mask(pipeline.codec, keep), first):
        raise ValueError("The first stage of the model does not make whole levels of codes.")
    return _edited(pipeline, sources, Refine(keep=keep), seed=seed, **sampling)


def _edited(
    pipeline: Pipeline, sources: Sequence[Track], edit: Edit, *, seed: int = 0, **sampling: Any
) -> list[Rendition]:
    read, model = pipeline.conditioner.fields if pipeline.conditioner else (), pipeline.fingerprint or ""

    def rendition(number: int, source: Track) -> Rendition:
        asked = Asked(number, {**source.metadata, **prompt_of(source)})
        told = {"codecdiff": __version__, "model": model, "edit": edit, "source": sha256(source.file)}
        told |= {"prompt": dict(asked.kept(read).fields)}
        own = Asked(number, {"source": source.name}).seed(seed)  # clips of one recording share its caption
        request = GenerationRequest(**told, generation=GenerationConfig(seed=own, **sampling))
        return Rendition(source.name, request, asked.kept((*read, *FACTS)).fields, source.file)

    return [rendition(number, source) for number, source in enumerate(sources)]


def render(
    pipeline: Pipeline,
    renditions: Sequence[Rendition],
    folder: Path,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Track]:
    """Make the clips that a folder does not have yet, and give all that were asked for, in order.

    `metadata.jsonl` beside them says what was asked, so that the folder can be judged as others are. Raises
    FileExistsError, before anything is made, if a clip there was made otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = [rendition.is_in(folder) for rendition in renditions]
    _note(folder, renditions)
    for count, (rendition, is_there) in enumerate(zip(renditions, there, strict=True), 1):
        if not is_there:
            comment = rendition.request.comment()
            if not keeps_comment(rendition.name, comment):
                raise ValueError(f"A prompt of {len(comment)} bytes is too long to be kept with its music: shorten it.")
            for audio in rendition.request.generate(pipeline, rendition.source):
                write_audio(folder / rendition.name, audio, pipeline.sample_rate, comment=comment)
        progress(count)
    return [_track(folder, rendition) for rendition in renditions]


def cut_sources(
    tracks: Mapping[str, Track], clips: Sequence[tuple[str, float]], seconds: float, codec: Codec, folder: Path
) -> list[Track]:
    """Write clips of recordings, (recording, start in seconds) each, as the codec hears audio; those there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = [seconds, codec.sample_rate, codec.channels]
    checksums = {name: remembered_checksum(tracks[name].file) for name, _ in clips}
    made = []
    for name, start in clips:
        digest = digest_of(json.dumps([name, checksums[name], start, *facts]).encode())[:16]
        file = folder / f"{digest}{SUFFIX}"
        if not file.exists():
            audio = read_clip(tracks[name].file, start, seconds, codec.sample_rate, codec.channels)
            write_audio(file, audio, codec.sample_rate)
        made.append(Track(file, file.name, tracks[name].captions, tracks[name].metadata))
    return made


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


def _track(folder: Path, rendition: Rendition) -> Track:
    fields = dict(rendition.asked)
    text = str(fields.pop("text", ""))
    return Track(folder / rendition.name, rendition.name, (text,) if text else (), fields)


def _note(folder: Path, renditions: Sequence[Rendition]) -> None:
    """Add what is asked for to the folder's metadata."""
    file = folder / "metadata.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []  # captions may hold U+2028
    rows = {row["file_name"]: row for row in map(json.loads, filter(None, lines))}
    rows |= {each.name: {"file_name": each.name, **each.asked} for each in renditions}
    replace_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for _, row in sorted(rows.items())))
