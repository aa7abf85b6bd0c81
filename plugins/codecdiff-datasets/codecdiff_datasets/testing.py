"""The checks of captioners, for tests and for `codecdiff check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from codecdiff_datasets.captioner import Captioner, Usage
from codecdiff_datasets.captioning import one_line

from codecdiff.testing.assertions import randomness_untouched, require
from codecdiff.testing.checks import CheckFailed, Checks, Result
from codecdiff.testing.runner import example_audio


@dataclass
class Trial:
    """A captioner that was not used before, and at least two tracks that it captions differently."""

    captioner: Captioner
    tracks: Sequence[Mapping[str, Any]]

    @cached_property
    def captions(self) -> list[str]:
        """Captions of the tracks, computed once: they may cost money."""
        return [self.captioner.caption(track) for track in self.tracks]


LAWS: Checks[Trial] = Checks("captioners")


def run_checks(captioner: Captioner) -> Iterator[Result]:
    """Run every check of a captioner on two tracks of tones and noise, and yield the results one by one."""
    with TemporaryDirectory() as folder:
        yield from LAWS.examine(captioner, Trial(captioner, example_tracks(Path(folder))))


def example_tracks(folder: Path) -> list[dict[str, Any]]:
    """Return two tracks of tones and noise, written into `folder`, with tags and a caption each."""
    names, genres, moods = ("first", "second"), ("jazz", "folk"), ("calm", "wild")
    return [
        {
            "track": name,
            "file": str(file),
            "present": True,
            "title": name,
            "tags": {"genre": [genre], "mood/theme": [mood]},
            "captions": [f"A {mood} piece of {genre}."],
        }
        for name, file, genre, mood in zip(names, example_audio(folder), genres, moods, strict=True)
    ]


def check_captioner(captioner: Captioner, tracks: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Run every check of a captioner, on at least two tracks that it captions differently. It stays open.

    Raises AssertionError that lists the checks that fail.
    """
    return LAWS.demand(captioner, Trial(captioner, tracks))


@LAWS.law
def facts(trial: Trial) -> None:
    """`incidental` names options of the captioner, and `concurrency` is at least 1."""
    captioner = trial.captioner
    unknown = set(captioner.incidental) - captioner.arguments.keys()
    require(not unknown, f"incidental names {sorted(unknown)}, which are not options.")
    threads = captioner.concurrency
    require(type(threads) is int and threads >= 1, f"concurrency is {threads!r}, not a number of threads.")


@LAWS.law
def estimate(trial: Trial) -> None:
    """`estimate` returns a Usage without using a server."""
    require(isinstance(trial.captioner.estimate(trial.tracks), Usage), "estimate does not return a Usage.")
    require(trial.captioner.usage() == Usage(), "estimate uses a server, or the captioner was used before.")


@LAWS.law
def one_line_of_text(trial: Trial) -> None:
    """A caption is one line of printable text, and not empty."""
    for caption in trial.captions:
        require(isinstance(caption, str) and caption, f"{caption!r} is not a caption: it must be text, and not empty.")
        require(caption == one_line(caption), f"{caption!r} is not one line of printable text.")


@LAWS.law
def tells_tracks_apart(trial: Trial) -> str:
    """Two different tracks have different captions."""
    require(len(set(trial.captions)) > 1, "All tracks have the same caption: the check is empty.")
    return f"tried with {len(trial.tracks)} tracks"


@LAWS.law
def deterministic(trial: Trial) -> None:
    """A track has the same caption the second time."""
    captions = trial.captions
    again = [trial.captioner.caption(track) for track in trial.tracks]
    require(again == captions, "A track has another caption the second time.")


@LAWS.law
def threads(trial: Trial) -> None:
    """In as many threads as `concurrency` says, tracks have the same captions."""
    captions, captioner = trial.captions, trial.captioner
    with ThreadPoolExecutor(captioner.concurrency) as pool:
        together = list(pool.map(captioner.caption, list(trial.tracks) * 4))
    require(together == captions * 4, f"In {captioner.concurrency} threads, tracks have other captions.")


@LAWS.law
def inputs_untouched(trial: Trial) -> None:
    """Captioning does not change the track."""
    for track in trial.tracks:
        before = deepcopy(track)
        trial.captioner.caption(track)
        require(track == before, "caption changes its argument.")


@LAWS.law
def unknown_track(trial: Trial) -> None:
    """A track without audio, tags and captions raises LookupError or ValueError."""
    try:
        caption = trial.captioner.caption({"track": "x", "file": "", "present": False, "tags": {}, "captions": []})
    except (LookupError, ValueError):
        return
    raise CheckFailed(f"A track without audio, tags and captions has the caption {caption!r}: raise LookupError.")


@LAWS.law
def no_global_randomness(trial: Trial) -> None:
    """The global generators of torch, numpy and random are left as they were."""
    with randomness_untouched(trial.captioner):
        trial.captioner.caption(trial.tracks[0])
