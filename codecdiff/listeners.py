"""Listeners: judges who hear recordings clip by clip, and remember on disk what they heard.

What is remembered is filed under all it follows from, the way of hearing and the files by name and checksum, some
recordings at a time: a run that is killed goes on with the next of these, and another run that needs them finds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from codecdiff import __version__
from codecdiff.adherence import SAMPLE_RATE, Reading
from codecdiff.data.audio import BadAudio, seconds_of, stream_audio
from codecdiff.data.metadata import Track
from codecdiff.data.prompts import prompt_of
from codecdiff.embedded import Embedded, embed, recording_of
from codecdiff.files import remembered_checksum, replace_text
from codecdiff.interfaces import Embedder
from codecdiff.protocols import AS_IT_IS, Hearing, digest_of

TOGETHER = 32  # recordings that are remembered together
MISSING = 0.01  # of a clip that its end may lack, as decoders and resamplers cut it: silence follows
LONG = 600.0  # seconds of a recording that is decoded once to see that it is whole, and again to be heard
QUIET = 1e-4  # root mean square of a clip under which its loudness is left alone: -80 dBFS

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Cutting:
    """How recordings are cut into clips: whole ones that follow each other, a rest is left out.

    seconds: of a clip.
    loudness: dBFS of root mean square that each clip is brought to, without a sample over full scale; None leaves it.
    """

    seconds: float
    loudness: float | None = None

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError(f"seconds={self.seconds:g}: judge clips of 0.1 to 3600 seconds.")
        if self.loudness is not None and not -60 <= self.loudness <= 0:
            raise ValueError(f"loudness={self.loudness:g}: ask for -60 to 0 dBFS, such as -20.")

    def __str__(self) -> str:
        """Say what is done to loudness."""
        if self.loudness is None:
            return AS_IT_IS
        return f"each clip at {self.loudness:g} dBFS RMS, or as near as full scale lets it"

    def clips(self, track: Track, sample_rate: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the clips of a recording, its mono mix (t,) each, named by the track and where they start.

        Raises BadAudio for a file that cannot be read, or is shorter than a clip.
        """
        size, held, pending, count = round(self.seconds * sample_rate), torch.zeros(0), [], 0
        for block in stream_audio(track.file, sample_rate, 1):
            pending.append(block[0])
            if len(held) + sum(map(len, pending)) < size:
                continue
            held, pending = torch.cat([held, *pending]), []
            while len(held) >= size:
                yield self.named(track, count), self.levelled(held[:size])
                held, count = held[size:], count + 1
        held = torch.cat([held, *pending])
        if len(held) >= (1 - MISSING) * size:
            yield self.named(track, count), self.levelled(pad(held, (0, size - len(held))))
        elif not count:
            raise BadAudio(f"'{track.file}' lasts {len(held) / sample_rate:.2f} s: no clip of {self.seconds:g} s fits.")

    def named(self, track: Track, number: int) -> str:
        """Give the name of a clip: the track's, and from the second on where it starts."""
        return f"{track.name}#t={number * self.seconds:.3f}" if number else track.name

    def levelled(self, clip: Tensor) -> Tensor:
        """(t,) clip -> (t,) at the loudness asked for."""
        level = float(clip.square().mean().sqrt())
        if self.loudness is None or level < QUIET:
            return clip
        return clip * min(10 ** (self.loudness / 20) / level, 1 / float(clip.abs().max()))


@dataclass(frozen=True)
class Listener:
    """An embedder that hears recordings as `hearing` says, and keeps what it heard in the folder `cache`."""

    embedder: Embedder
    hearing: Hearing
    cutting: Cutting
    cache: Path

    def hear(self, tracks: Sequence[Track], progress: Progress = lambda count: None) -> tuple[Embedded, list[str]]:
        """Embed the clips of recordings, and give them with a sentence for every recording that has none.

        Raises ValueError where no clip is left.
        """
        parts, skipped = [], []
        for start in range(0, len(tracks), TOGETHER):
            some = tracks[start : start + TOGETHER]
            file = self.cache / f"{self.hearing.embedder['name']}-{_key(self.hearing, some)}.safetensors"
            known = Embedded.load(file) if file.is_file() else None
            unknown = _Readable(_without(some, known), self.cutting, self.hearing.sample_rate)
            if known is not None:
                list(unknown)  # say again why there is no clip of these
            elif (known := _embedded(self.embedder, self.hearing, unknown)) is not None:
                known.save(file)
            parts += [known] if known is not None else []
            skipped += unknown.faults
            progress(start + len(some))
        if not parts:
            raise ValueError(" ".join(["There is no clip to judge.", *skipped[:3]]))
        heard = Embedded.cat(parts)
        prompts = {track.name: prompt_of(track) for track in tracks}
        return replace(heard, prompts=[prompts[recording_of(name)] for name in heard.names]), skipped


@dataclass(frozen=True)
class Reader:
    """A reader of one fact, a number for every clip, that keeps what it read in the folder `cache`."""

    name: str
    read: Callable[..., Reading]
    cutting: Cutting
    cache: Path

    def of(self, tracks: Sequence[Track]) -> Reading:
        """Read the clips of recordings, those that can be read; their prompts stand beside them."""
        parts = []
        for start in range(0, len(tracks), TOGETHER):
            some = tracks[start : start + TOGETHER]
            clips = _Readable(some, self.cutting, SAMPLE_RATE)
            blank = self.read((), clip_seconds=self.cutting.seconds)
            file = self.cache / f"{self.name}-{_key(blank.hearing, some)}.json"
            if not file.is_file():
                found = self.read(clips, clip_seconds=self.cutting.seconds)
                file.parent.mkdir(parents=True, exist_ok=True)
                replace_text(file, json.dumps([list(found.names), found.values.tolist()]))
            names, values = json.loads(file.read_text(encoding="utf-8"))
            parts.append(replace(blank, names=names, values=torch.tensor(values, dtype=torch.float64)))
        prompts = {track.name: prompt_of(track) for track in tracks}
        names = [name for part in parts for name in part.names]
        values = torch.cat([part.values for part in parts])
        return replace(parts[0], names=names, values=values, prompts=[prompts[recording_of(name)] for name in names])


class _Readable:
    """The clips of those recordings that can be read, in order; `faults` says why the others cannot."""

    def __init__(self, tracks: Sequence[Track], cutting: Cutting, sample_rate: int):
        self.tracks, self.cutting, self.sample_rate = tracks, cutting, sample_rate
        self.faults: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for track in self.tracks:
            try:
                yield from self._whole(track)
            except BadAudio as error:
                self.faults.append(str(error))

    def _whole(self, track: Track) -> Iterable[tuple[str, Tensor]]:
        """Give the clips of a file once it is known to be whole. Raises BadAudio."""
        if seconds_of(track.file) <= LONG:
            return list(self.cutting.clips(track, self.sample_rate))
        for _ in stream_audio(track.file, self.sample_rate, 1):
            pass
        return self.cutting.clips(track, self.sample_rate)


def _without(tracks: Sequence[Track], known: Embedded | None) -> Sequence[Track]:
    """Leave out the recordings that clips are known of."""
    names = {recording_of(name) for name in known.names} if known is not None else set()
    return [track for track in tracks if track.name not in names]


def _embedded(embedder: Embedder, hearing: Hearing, clips: _Readable) -> Embedded | None:
    """Embed clips, if there are any."""
    found = iter(clips)
    first = next(found, None)
    return None if first is None else embed(embedder, hearing, chain([first], found))


def _key(hearing: Hearing, tracks: Sequence[Track]) -> str:
    """Give the hash of all that what is heard in these recordings follows from."""
    files = [[track.name, remembered_checksum(track.file)] for track in tracks if track.file.is_file()]
    return digest_of(json.dumps([__version__, asdict(hearing), files], sort_keys=True).encode())[:20]
