"""An encoding job: a plan of tasks, each making one shard of a store, and how far it is."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from codecdiff import config as configuration
from codecdiff.config.schema import Config, Target
from codecdiff.data.audio import MAX_SECONDS, BadAudio, read_audio, seconds_of
from codecdiff.data.code_store import STATE_FILE, load_state
from codecdiff.data.metadata import Track
from codecdiff.data.segments import SegmentConfig
from codecdiff.errors import InvalidValue, UserError
from codecdiff.files import atomic_write_text, read_json, write_safetensors
from codecdiff.fingerprint import module_fingerprint
from codecdiff.interfaces.codec import Codec

__all__ = ["EncodeConfig", "EncodingIncomplete", "Engine", "Job", "ReportTracks", "Task", "TaskResult", "fitting_clips"]

LONG_SECONDS = 1200.0  # of a track that a codec is fitted to; of a longer one, only the clips are read
SHARD_FRAMES = 2**20  # about 3.4 hours at 86 frames/s, 19 MB with 9 codebooks
ReportTracks = Callable[[int, int], None]  # called with the index of a task and how many of its tracks are done


class EncodingIncomplete(UserError, OSError):
    """Some tasks failed. The others are saved, and the same command resumes the job."""


class EncodeConfig(Config):
    """How tracks are encoded into a store.

    Attributes:
        target: "continuous" stores the latents before quantization, too.
        segments: How tracks are segmented.
        shard_minutes: Audio per shard, and at most what is lost when a worker dies.
        seed: Seed for fitting a codec that needs it.
        request: Digest of the command, recorded in the header: run again, it says that it is finished.

    """

    model_config = ConfigDict(frozen=True)

    target: Target = "codes"
    segments: SegmentConfig = SegmentConfig()
    shard_minutes: float = 60.0
    seed: int = 0
    request: str = ""


class Plan(BaseModel):
    """The contents of plan.json."""

    inputs: dict[str, Any]
    weights: str
    num_codebooks: int
    frame_rate: float
    tasks: list[tuple[int, float]]  # tracks and seconds of each


@dataclass(frozen=True)
class Task:
    """One shard to make, of consecutive tracks."""

    index: int
    tracks: tuple[Track, ...]
    seconds: float  # of audio to encode, an estimate


@dataclass(frozen=True)
class TaskResult:
    """The result of a task."""

    index: int
    shard: str  # stem of the shard's files
    skipped: Mapping[str, str]  # name of a track -> why it was skipped
    dropped: Mapping[str, int]  # reason -> number of segments
    issues: Mapping[str, str] = field(default_factory=dict)  # name of a track -> what is wrong with audio that is used


@dataclass(frozen=True)
class Job:
    """What a worker needs to run any task of a draft, on any machine that can access the draft's folder."""

    draft: Path
    spec: Mapping[str, Any]  # configuration of the codec
    weights: str  # fingerprint of the codec
    config: EncodeConfig

    def codec(self, device: torch.device | str) -> Codec:
        """Build the codec. Raises ValueError if its weights are not those that the draft was begun with."""
        codec = configuration.build("codecs", self.spec)
        _load_codec_state(codec, self.weights, self.draft)
        return codec.to(device)

    def rows_file(self, index: int) -> Path:
        """Return the file with the rows of a task, which exists once the task is done."""
        return self.draft / "tasks" / f"{index:05d}.parquet"


Engine = Callable[[Sequence[Task], Job, Codec, ReportTracks], Iterator[TaskResult]]


class EncodingProgress:
    """Progress of an encoding job. `str` describes it in a line.

    Attributes:
        total: Seconds of audio of all tasks.
        resumed: Seconds that earlier runs encoded.
        seconds, tracks, skipped: Seconds and tracks that this run encoded, and tracks that it skipped.
        report: Called with this object whenever a track is done.

    """

    def __init__(
        self,
        tasks: Sequence[Task],
        done: Collection[int],
        report: Callable[[EncodingProgress], None] = lambda progress: None,
    ):
        self.report = report
        self.total = sum(task.seconds for task in tasks)
        self.resumed = sum(task.seconds for task in tasks if task.index in done)
        self.seconds, self.tracks, self.skipped = 0.0, 0, 0
        self._seconds_per_track = {task.index: task.seconds / len(task.tracks) for task in tasks}
        self._tracks_done: Counter[int] = Counter()  # by task
        self._start = time.monotonic()

    def update(self, task: int, tracks: int) -> None:
        """Record how many tracks of a task are done."""
        more, self._tracks_done[task] = tracks - self._tracks_done[task], tracks
        self.tracks += more
        self.seconds += more * self._seconds_per_track[task]
        self.report(self)

    @property
    def speed(self) -> float:
        """Seconds of audio per second of this run."""
        return self.seconds / max(1e-9, time.monotonic() - self._start)

    def __str__(self) -> str:
        done = self.resumed + self.seconds
        left = (self.total - done) / self.speed if self.speed else 0.0
        speed = f"{self.speed:.0f}" if self.speed >= 10 else f"{self.speed:.1f}"
        line = f"{done / 3600:.2f} of {self.total / 3600:.2f} h, {speed} x real time, {_format_seconds(left)} left"
        return line + f", {self.skipped} skipped" * bool(self.skipped)


def _format_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def draft_of(folder: Path) -> Path:
    """Return the folder in which a store is made until it is complete."""
    return folder.with_name(f".{folder.name}.part")


def plan_tasks(tracks: Sequence[Track], codec: Codec, config: EncodeConfig) -> list[Task]:
    """Divide tracks into tasks of at most `shard_minutes` of audio and SHARD_FRAMES frames, or of one track."""
    limit = min(60 * config.shard_minutes, SHARD_FRAMES / codec.frame_rate)
    groups: list[list[Track]] = []
    lengths: list[float] = []  # seconds
    for track in tracks:
        seconds = seconds_of(track.file) if track.seconds is None else track.seconds
        length = config.segments.overlap_factor * seconds
        if not groups or lengths[-1] + length > limit:
            groups.append([])
            lengths.append(0.0)
        groups[-1].append(track)
        lengths[-1] += length
    return [Task(i, tuple(group), length) for i, (group, length) in enumerate(zip(groups, lengths, strict=True))]


def begin_job(
    tracks: Sequence[Track], folder: Path, codec: Codec, spec: Mapping[str, Any], config: EncodeConfig
) -> tuple[Job, list[Task]]:
    """Begin the draft of a store, or resume the existing one. A codec that needs it is fitted, or loads its state.

    Raises ValueError if the draft was begun with other tracks, codec, weights or options.
    """
    draft = draft_of(folder)
    inputs = {"tracks": hash_tracks(tracks), "codec": spec, **config.model_dump(exclude={"seed", "request"})}
    inputs = json.loads(json.dumps(inputs))
    if not (draft / "plan.json").is_file():
        if not codec.is_fitted:
            codec.fit(fitting_clips(tracks, codec), seed=config.seed)
        for name in ("shards", "tasks"):
            (draft / name).mkdir(parents=True, exist_ok=True)
        if state := codec.fitted_state():
            write_safetensors(draft / STATE_FILE, state)
        new = {"inputs": inputs, "weights": module_fingerprint(codec)}
        new |= {"num_codebooks": codec.num_codebooks, "frame_rate": codec.frame_rate}
        new |= {"tasks": [(len(task.tracks), task.seconds) for task in plan_tasks(tracks, codec, config)]}
        atomic_write_text(draft / "plan.json", json.dumps(new))
    plan = read_plan(draft)
    stored = plan["inputs"]
    stored["codec"], inputs["codec"] = configuration.align_defaults("codecs", stored["codec"], inputs["codec"])
    if differ := [key for key in inputs if stored.get(key) != inputs[key]]:
        raise InvalidValue(
            f"'{draft}' is a store that was begun with other {' and '.join(differ)}. "
            "Run the command it was begun with to resume, or delete it to start again."
        )
    _load_codec_state(codec, plan["weights"], draft)
    remaining = iter(tracks)
    tasks = [
        Task(index, tuple(next(remaining) for _ in range(count)), seconds)
        for index, (count, seconds) in enumerate(plan["tasks"])
    ]
    return Job(draft.absolute(), dict(spec), plan["weights"], config), tasks


def read_plan(draft: Path) -> dict[str, Any]:
    """Read the plan of a draft. Raises BadDocument."""
    return read_json(draft / "plan.json", Plan).model_dump()


def _load_codec_state(codec: Codec, weights: str, draft: Path) -> None:
    if not codec.is_fitted:
        codec.load_fitted_state(load_state(draft / STATE_FILE))
    if (current := module_fingerprint(codec)) != weights:
        raise InvalidValue(
            f"'{draft}' was begun by a codec whose weights are {weights}, not {current}. "
            "Use the same weights on every machine, or delete it to start again."
        )


def hash_tracks(tracks: Iterable[Track]) -> str:
    """Return a hash of names, files, captions and metadata of tracks, in order."""
    digest = hashlib.sha256()
    for track in tracks:
        identity = [track.name, str(track.file.absolute()), list(track.captions), dict(track.metadata)]
        digest.update(json.dumps(identity, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def fitting_clips(
    tracks: Sequence[Track], codec: Codec, *, seconds: float = 12.0, max_clips: int = 200
) -> Iterator[Tensor]:
    """Yield clips (ch, t) for fitting a codec: at most `max_clips`, spread over the tracks and within each of them.

    Raises BadAudio with the names of the files if none of them can be read.
    """
    selected = tracks[:: max(1, len(tracks) // max_clips)][:max_clips]
    per_track, samples = max_clips // len(selected), round(seconds * codec.sample_rate)
    issues: list[str] = []
    for track in selected:
        try:
            if (length := seconds_of(track.file)) > LONG_SECONDS:
                for i in range(per_track):
                    start = (length - seconds) * (i + 0.5) / per_track
                    yield read_audio(track.file, codec.sample_rate, codec.channels, start=start, seconds=seconds)
                continue
            audio = read_audio(track.file, codec.sample_rate, codec.channels, seconds=MAX_SECONDS)
        except BadAudio as error:
            issues.append(str(error))
            continue
        count = min(per_track, max(1, audio.shape[-1] // samples))
        slack = max(0, audio.shape[-1] - samples)
        for i in range(count):
            start = round(slack * (i + 0.5) / count)
            yield audio[:, start : start + samples]
    if len(issues) == len(selected):
        raise none_readable(issues)


def none_readable(issues: Sequence[str]) -> BadAudio:
    """Return the error for audio files that all have issues."""
    return BadAudio("None of the audio files could be read:\n" + "\n".join(issues))
