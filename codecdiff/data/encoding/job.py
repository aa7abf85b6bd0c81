"""An encoding as a plan of tasks, each of which makes one shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from codecdiff import config
from codecdiff.config.schema import Target
from codecdiff.data.audio import BadAudio, read_audio, seconds_of
from codecdiff.data.code_store import fingerprint, load_state
from codecdiff.data.metadata import Track
from codecdiff.data.segments import Segmentation
from codecdiff.files import replace_text, replaced
from codecdiff.interfaces import Codec

SHARD_FRAMES = 2**20  # about 3.4 hours of 86 frames/s, 19 MB with 9 codebooks
SHARD_MINUTES = 60.0  # of audio; what is lost at most when a worker dies
KEY = b"codecdiff"  # of a parquet file's own metadata
KEEP_WHOLE = Segmentation()
Tell = Callable[[int, int], None]  # is called with the number of a task and how many of its tracks are done


class Unfinished(OSError):
    """Some tasks could not be done; what is done is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class Task:
    """One shard to make: a run of tracks, and how many seconds of audio will be encoded of them, as far as known."""

    number: int
    tracks: tuple[Track, ...]
    seconds: float


@dataclass(frozen=True)
class Job:
    """What a worker has to know to do any task of a draft, on whatever machine sees the draft's folder."""

    draft: Path
    spec: Mapping[str, Any]  # of the codec
    weights: str  # fingerprint of the codec
    target: Target
    rules: Segmentation

    def codec(self, device: torch.device | str) -> Codec:
        """Build the codec. Raises ValueError if its weights are not those that the draft was begun with."""
        codec = config.build("codecs", self.spec)
        if not codec.is_fitted:
            codec.load_fitted_state(load_state(self.draft / "codec.safetensors"))
        _check_weights(codec, self.weights, self.draft)
        return codec.to(device)

    def rows_file(self, number: int) -> Path:
        """Give the file whose being there means that a task is done."""
        return self.draft / "tasks" / f"{number:05d}.parquet"


@dataclass(frozen=True)
class Done:
    """What became of a task: the stem of its shard's files, why tracks were skipped, how many pieces were dropped."""

    number: int
    shard: str
    skipped: Mapping[str, str]
    dropped: Mapping[str, int]


Engine = Callable[[Sequence[Task], Job, Codec, Tell], Iterator[Done]]


# planning


def draft_of(folder: Path) -> Path:
    """Give the folder in which a store is made, until it is whole."""
    return folder.with_name(f".{folder.name}.part")


def plan(tracks: Sequence[Track], codec: Codec, rules: Segmentation, minutes: float) -> list[Task]:
    """Divide tracks into tasks of at most so many minutes of audio and SHARD_FRAMES latent frames, or one track."""
    most = min(60 * minutes, SHARD_FRAMES / codec.frame_rate)
    runs: list[list[Track]] = []
    lengths: list[float] = []  # seconds
    for track in tracks:
        length = rules.share * (seconds_of(track.file) if track.seconds is None else track.seconds)
        if not runs or lengths[-1] + length > most:
            runs.append([])
            lengths.append(0.0)
        runs[-1].append(track)
        lengths[-1] += length
    return [Task(i, tuple(run), length) for i, (run, length) in enumerate(zip(runs, lengths, strict=True))]


def begin(
    tracks: Sequence[Track],
    folder: Path,
    codec: Codec,
    spec: Mapping[str, Any],
    *,
    target: Target,
    rules: Segmentation,
    minutes: float,
    seed: int,
) -> tuple[Job, list[Task]]:
    """Begin the draft of a store, or take up one that was begun; fit the codec, if it needs that, or give it its state.

    Raises ValueError if the draft was begun with anything else.
    """
    draft = draft_of(folder)
    asked = {"tracks": _identity(tracks), "codec": spec, "target": target, "rules": rules.model_dump()}
    asked = json.loads(json.dumps({**asked, "minutes": minutes}))
    if not (draft / "plan.json").is_file():
        if not codec.is_fitted:
            codec.fit(clips(tracks, codec), seed=seed)
        _write_plan(draft, asked, codec, plan(tracks, codec, rules, minutes))
    begun = json.loads((draft / "plan.json").read_text(encoding="utf-8"))
    began = begun["asked"]
    began["codec"], asked["codec"] = config.align_defaults("codecs", began["codec"], asked["codec"])
    if differ := [key for key in asked if began[key] != asked[key]]:
        raise ValueError(
            f"'{draft}' is a store that was begun with other {' and '.join(differ)}. "
            "Run the command it was begun with, to go on, or delete it, to begin anew."
        )
    if not codec.is_fitted:
        codec.load_fitted_state(load_state(draft / "codec.safetensors"))
    _check_weights(codec, begun["weights"], draft)
    rest = iter(tracks)
    tasks = [
        Task(number, tuple(next(rest) for _ in range(count)), seconds)
        for number, (count, seconds) in enumerate(begun["tasks"])
    ]
    return Job(draft.absolute(), dict(spec), begun["weights"], target, rules), tasks


def _write_plan(draft: Path, asked: dict[str, Any], codec: Codec, tasks: Sequence[Task]) -> None:
    for name in ("shards", "tasks"):
        (draft / name).mkdir(parents=True, exist_ok=True)
    if state := codec.fitted_state():
        with replaced(draft / "codec.safetensors") as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, temporary)
    made = {
        "num_codebooks": codec.num_codebooks,
        "frame_rate": codec.frame_rate,
        "tasks": [(len(task.tracks), task.seconds) for task in tasks],
    }
    replace_text(draft / "plan.json", json.dumps({"asked": asked, "weights": fingerprint(codec), **made}))


def _check_weights(codec: Codec, weights: str, draft: Path) -> None:
    if (found := fingerprint(codec)) != weights:
        raise ValueError(
            f"'{draft}' was begun by a codec whose weights are {weights}, not {found}. "
            "Use the same weights wherever it is worked on, or delete it, to begin anew."
        )


def _identity(tracks: Iterable[Track]) -> str:
    """Give a hash of which tracks these are: names, files, captions and metadata, in order."""
    digest = hashlib.sha256()
    for track in tracks:
        told = [track.name, str(track.file.absolute()), list(track.captions), dict(track.metadata)]
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def clips(tracks: Sequence[Track], codec: Codec, *, seconds: float = 12.0, most: int = 200) -> Iterator[Tensor]:
    """Yield (ch, t) clips for fitting a codec: at most `most`, spread over the tracks and within each of them.

    Raises BadAudio, naming the files, if none of them can be read.
    """
    chosen = tracks[:: max(1, len(tracks) // most)][:most]
    each, samples = most // len(chosen), round(seconds * codec.sample_rate)
    faults: list[str] = []
    for track in chosen:
        try:
            audio = read_audio(track.file, codec.sample_rate, codec.channels)
        except BadAudio as error:
            faults.append(str(error))
            continue
        count = min(each, max(1, audio.shape[-1] // samples))
        slack = max(0, audio.shape[-1] - samples)
        for i in range(count):
            start = round(slack * (i + 0.5) / count)
            yield audio[:, start : start + samples]
    if len(faults) == len(chosen):
        raise _none_readable(faults)


def _none_readable(faults: Sequence[str]) -> BadAudio:
    return BadAudio("None of the audio files could be read:\n" + "\n".join(faults))
