"""Generated clips: what a model generates to be evaluated, each a file that says how it was made.

A folder of them fills clip by clip, each written whole, so a run that is killed resumes. A clip follows from the model,
its prompt and the seed: whatever other prompts there are, and whichever process generates it, it is the same.

Tasks run in this process, or in workers that an engine starts: an entry of `codecdiff.generation_engines`, a function
(device, workers) -> engine, as codecdiff-ray has. Each worker loads the model once. Models, sources and output folders
have the same paths wherever workers run.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from codecdiff import __version__
from codecdiff.config import Guidance
from codecdiff.data.audio import keeps_comment, read_audio, write_audio
from codecdiff.data.metadata import Track
from codecdiff.errors import FileExists, InvalidValue
from codecdiff.files import atomic_write_text, cached_checksum, sha256
from codecdiff.interfaces import Codec
from codecdiff.pipeline import Edit, GenerationConfig, GenerationRequest, Pipeline, Refine, levels_mask
from codecdiff_eval.eval_sets import first_stages_mask
from codecdiff_eval.prompts import ATTRIBUTES, EvalPrompt, prompt_of
from codecdiff_eval.results import flatten, hash_of

SUFFIX = ".flac"  # whose comment has room for long prompts
TIMES = "seconds.txt"  # of a folder of clips: how long each took, a line for each; of two, the last one counts

Task = Callable[[Pipeline], Any]  # can be pickled
Workers = Callable[[Sequence[Task]], Iterator[tuple[int, Any]]]  # the index of each task and its result, in any order
LoadModel = Callable[..., Pipeline]  # called by a worker with its `device`; can be pickled
Engine = Callable[[LoadModel, Sequence[Task]], Iterator[tuple[int, Any]]]


@dataclass(frozen=True)
class GeneratedClip:
    """A clip to generate: the name of its file, all it follows from, and the source that it is made out of, if any.

    prompt: what is requested of it, with the attributes of the source.
    """

    name: str
    request: GenerationRequest
    prompt: Mapping[str, Any]
    source: Path | None = None

    def is_in(self, folder: Path) -> bool:
        """Return whether a folder has this clip. Raises FileExistsError if it has another by that name."""
        file = folder / self.name
        if not file.exists():
            return False
        try:
            existing = GenerationRequest.from_file(file)
        except InvalidValue:
            existing = None
        if existing is None or existing.model_copy(update={"codecdiff": __version__}) != self.request:
            new, old = (
                flatten(each.model_dump(exclude={"codecdiff"})) if each else {} for each in (self.request, existing)
            )
            changed = [name.rpartition(".")[2] for name in new if old and new[name] != old.get(name)]
            raise FileExists(
                f"'{file}' is not the requested clip: it has another {', '.join(changed) or 'origin'}. An evaluation "
                "of other clips needs another output folder: name one with -o, or delete that one."
            )
        return True

    def track(self, folder: Path) -> Track:
        """Return the clip as a track of a folder, with its prompt."""
        fields = dict(self.prompt)
        text = str(fields.pop("text", ""))
        return Track(folder / self.name, self.name, (text,) if text else (), fields)

    def write(self, folder: Path, pipeline: Pipeline) -> None:
        """Generate the clip and write it to a folder, after the time it took: what is there is not generated again.

        Raises InvalidValue if the model is not the one that is requested.
        """
        if self.request.model:
            self.request.check_model(pipeline.fingerprint)
        start = time.perf_counter()
        (audio,) = pipeline.generate_request(self.request, self.source)
        with (folder / TIMES).open("a", encoding="utf-8") as log:
            log.write(f"\n{time.perf_counter() - start:.3f} {self.name}")  # on a line of its own after a torn one
        write_audio(folder / self.name, audio, pipeline.sample_rate, comment=self.request.comment())


@dataclass(frozen=True)
class Generator:
    """A model that is evaluated, and how it is sampled; the seed of each clip follows from `seed` and its prompt.

    steps, guidance: None for the model's own.
    workers: generate clips; None for this process.
    """

    pipeline: Pipeline
    name: str = ""
    seed: int = 0
    steps: int | None = None
    guidance: Guidance | None = None
    workers: Workers | None = None

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The steps and the guidance that each stage is sampled with, the model's own where none are specified."""
        return {
            stage.name: {
                "steps": self.steps or stage.sampling.num_inference_steps,
                "guidance": stage.sampling.guidance_scale if self.guidance is None else self.guidance,
            }
            for stage in self.pipeline.stages
        }

    def generated(self, prompts: Sequence[EvalPrompt], seconds: float) -> list[GeneratedClip]:
        """Return a clip to generate from every prompt, with a seed that follows from `seed` and the prompt alone."""
        self.pipeline.frames(seconds)  # absurd ones are refused

        def clip(prompt: EvalPrompt) -> GeneratedClip:
            generation = self._options(prompt.seed(self.seed)).merge(audio_length_in_s=seconds)
            request = self._request(prompt, generation=generation)
            fields = prompt.only((*self._fields, *_instruments_in_text(prompt))).fields
            return GeneratedClip(f"{prompt.number:06d}-{prompt.hash}{SUFFIX}", request, fields)

        return [clip(prompt) for prompt in prompts]

    def codec_reconstruction(self, sources: Sequence[Track]) -> list[GeneratedClip]:
        """Return what the codec makes of every source: all levels are kept, and nothing is sampled."""
        keep = tuple(sorted(set(self.pipeline.codec.levels)))
        return replace(self, seed=0, steps=None, guidance=None)._edited(sources, Refine(keep=keep))

    def oracle_first_stage(self, sources: Sequence[Track]) -> list[GeneratedClip]:
        """Return every source with its own first stage, and the later ones generated from its caption.

        Raises ValueError for a model of one stage, and for one whose stages do not make whole levels.
        """
        codec, splitter = self.pipeline.codec, self.pipeline.splitter
        if len(self.pipeline.stage_names) == 1:
            raise InvalidValue("The model has one stage.")
        first = first_stages_mask(splitter, codec, frames=1, count=1)
        keep = tuple(sorted({level for level, is_first in zip(codec.levels, first.flatten(), strict=True) if is_first}))
        if not torch.equal(levels_mask(codec, keep), first):
            raise InvalidValue("The first stage of the model does not make whole levels of codes.")
        return self._edited(sources, Refine(keep=keep))

    def write(
        self, clips: Sequence[GeneratedClip], folder: Path, progress: Callable[[int], None] = lambda count: None
    ) -> list[Track]:
        """Generate the clips that a folder does not have yet, and return all of them as tracks, in order.

        `metadata.jsonl` beside them holds their prompts, so that the folder can be evaluated as others are. Raises
        FileExistsError, before anything is generated, if a clip there is another.
        """
        folder.mkdir(parents=True, exist_ok=True)
        missing = [clip for clip in clips if not clip.is_in(folder)]
        for clip in missing:
            if not keeps_comment(clip.name, comment := clip.request.comment()):
                raise InvalidValue(f"A prompt of {len(comment)} bytes is too long to be stored in a file: shorten it.")
        _write_metadata(folder, clips)
        progress(done := len(clips) - len(missing))
        tasks = [partial(clip.write, folder) for clip in missing]
        with counted_warnings():
            for _ in run_tasks(tasks, self.pipeline, self.workers):
                progress(done := done + 1)
        return [clip.track(folder) for clip in clips]

    @property
    def _fields(self) -> Sequence[str]:
        """The fields of a prompt that the model reads."""
        return self.pipeline.conditioner.fields if self.pipeline.conditioner else ()

    def _options(self, seed: int) -> GenerationConfig:
        level = "off"  # clips are evaluated as the model makes them
        return GenerationConfig(seed=seed, num_inference_steps=self.steps, guidance_scale=self.guidance, loudness=level)

    def _request(self, prompt: EvalPrompt, **options: Any) -> GenerationRequest:
        fields, model = dict(prompt.only(self._fields).fields), self.pipeline.fingerprint or ""
        adapters = [adapter.record for adapter in self.pipeline.adapters] or None
        return GenerationRequest(codecdiff=__version__, model=model, adapters=adapters, prompt=fields, **options)

    def _edited(self, sources: Sequence[Track], edit: Edit) -> list[GeneratedClip]:
        def clip(number: int, source: Track) -> GeneratedClip:
            prompt = EvalPrompt(number, {**source.metadata, **prompt_of(source)})
            own = EvalPrompt(number, {"source": source.name}).seed(self.seed)  # clips of one track share its caption
            request = self._request(prompt, edit=edit, source=sha256(source.file), generation=self._options(own))
            return GeneratedClip(source.name, request, prompt.only((*self._fields, *ATTRIBUTES)).fields, source.file)

        return [clip(number, source) for number, source in enumerate(sources)]


def run_tasks(tasks: Sequence[Task], pipeline: Pipeline, workers: Workers | None) -> Iterator[tuple[int, Any]]:
    """Yield the index of each task and its result, as they are done by workers, or in order by this process."""
    return workers(tasks) if workers and tasks else enumerate(task(pipeline) for task in tasks)


@contextmanager
def counted_warnings() -> Iterator[None]:
    """Show warnings that only differ in their numbers once, with the number of clips that they are about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    causes: dict[str, list[str]] = {}
    for each in caught:
        causes.setdefault(re.sub(r"\d[\d.,]*", "", str(each.message)), []).append(str(each.message))
    for first, *others in causes.values():
        warnings.warn(f"{first} Similar in {len(others)} more." if others else first, stacklevel=3)


def _instruments_in_text(prompt: EvalPrompt) -> list[str]:
    """Return the field of instruments if the text names all: they are requested of a model that reads text alone."""
    text, instruments = str(prompt.fields.get("text", "")).casefold(), prompt.fields.get("instruments")
    named = isinstance(instruments, list) and all(str(name).casefold() in text for name in instruments)
    return ["instruments"] if named and instruments else []


def cut_sources(
    tracks: Mapping[str, Track], clips: Sequence[tuple[str, float]], seconds: float, codec: Codec, folder: Path
) -> list[Track]:
    """Write clips of tracks, (track, start in seconds) each, at the codec's rate and channels; existing ones stay."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = [seconds, codec.sample_rate, codec.channels]
    checksums = {name: cached_checksum(tracks[name].file) for name, _ in clips}
    sources = []
    for name, start in clips:
        digest = hash_of(json.dumps([name, checksums[name], start, *facts]).encode())[:16]
        file = folder / f"{digest}{SUFFIX}"
        if not file.exists():
            audio = read_clip(tracks[name].file, start, seconds, codec.sample_rate, codec.channels)
            write_audio(file, audio, codec.sample_rate)
        sources.append(Track(file, file.name, tracks[name].captions, tracks[name].metadata))
    return sources


def read_clip(file: Path, start: float, seconds: float, sample_rate: int, channels: int) -> Tensor:
    """Read a clip of an audio file from `start` on as (ch, t), silent after the file's end. Raises BadAudio."""
    audio, size = read_audio(file, sample_rate, channels, start=start, seconds=seconds), round(seconds * sample_rate)
    return pad(audio[:, :size], (0, max(0, size - audio.shape[1])))


def median_seconds(folder: Path) -> float | None:
    """Return the median time in seconds in which the clips of a folder were generated; None if none was."""
    text = (folder / TIMES).read_text(encoding="utf-8") if (folder / TIMES).is_file() else ""
    lines = re.findall(rf"^(\d+\.\d+) (\S+{re.escape(SUFFIX)})$", text, re.MULTILINE)  # without torn ones
    seconds = {name: float(number) for number, name in lines}
    return median(seconds.values()) if seconds else None


def _write_metadata(folder: Path, clips: Sequence[GeneratedClip]) -> None:
    """Add prompts to the folder's metadata."""
    file = folder / "metadata.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []  # captions may hold U+2028
    rows = {row["file_name"]: row for row in map(json.loads, filter(None, lines))}
    rows |= {clip.name: {"file_name": clip.name, **clip.prompt} for clip in clips}
    atomic_write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for _, row in sorted(rows.items())))
