"""The checks of captioners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from codecdiff.captioning import one_line
from codecdiff.interfaces import Bill, Captioner
from codecdiff.testing.assertions import assert_that, randomness_untouched
from codecdiff.testing.checks import CheckFailed, Checks, Result
from codecdiff.testing.clips import example_audio
from codecdiff.testing.runner import CheckRequest, CheckRun


@dataclass
class Case:
    """A captioner that was not used before, and at least two tracks that it gives different captions."""

    part: Captioner
    tracks: Sequence[Mapping[str, Any]]

    @cached_property
    def captions(self) -> list[str]:
        """Captions of the tracks, asked for once: it may cost."""
        return [self.part.caption(track) for track in self.tracks]


CHECKS: Checks[Case] = Checks("captioners")


def check_captioner(captioner: Captioner, tracks: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Run every check of a captioner, on at least two tracks that it gives different captions. It stays open.

    Raises AssertionError that lists the checks it fails.
    """
    return CHECKS.assert_all(captioner, Case(captioner, tracks))


def run_checks(request: CheckRequest) -> CheckRun:
    """Build a captioner, and run its checks on two tracks."""
    captioner, names = request.build(), ("first", "second")
    tracks = [
        {
            "track": name,
            "file": str(file),
            "present": True,
            "title": name,
            "tags": {"genre": [genre], "mood/theme": [mood]},
            "captions": [f"A {mood} tune, {genre}."],
        }
        for name, file, genre, mood in zip(
            names, example_audio(request.folder), ("jazz", "folk"), ("calm", "wild"), strict=True
        )
    ]
    notes = ["checked with two tracks of tones and noise, with tags and a caption each"]
    return CheckRun(captioner, notes, CHECKS.run(captioner, Case(captioner, tracks)))


@CHECKS.check
def facts(case: Case) -> None:
    """`incidental` names options that it has, and `concurrency` is at least 1."""
    captioner = case.part
    unknown = set(captioner.incidental) - captioner.arguments.keys()
    assert_that(not unknown, f"There are no options {sorted(unknown)}, which it says are incidental.")
    threads = captioner.concurrency
    assert_that(type(threads) is int and threads >= 1, f"concurrency is {threads!r}, not a number of threads.")


@CHECKS.check
def estimate(case: Case) -> None:
    """`estimate` gives a Bill, and asks no server for it."""
    assert_that(isinstance(case.part.estimate(case.tracks), Bill), "estimate does not give a Bill.")
    assert_that(case.part.bill() == Bill(), "estimate asks a server, or the captioner was used before.")


@CHECKS.check
def one_line_of_text(case: Case) -> None:
    """A caption is one line of printable text, and not empty."""
    for caption in case.captions:
        assert_that(isinstance(caption, str) and caption, f"{caption!r} is no caption: it is text, and not empty.")
        assert_that(caption == one_line(caption), f"{caption!r} is not one line of printable text.")


@CHECKS.check
def tells_tracks_apart(case: Case) -> None:
    """Two different tracks have different captions."""
    assert_that(len(set(case.captions)) > 1, "All tracks have the same caption: the check is empty.")


@CHECKS.check
def deterministic(case: Case) -> None:
    """A track has the same caption the second time."""
    captions = case.captions
    again = [case.part.caption(track) for track in case.tracks]
    assert_that(again == captions, "A track has another caption the second time.")


@CHECKS.check
def threads(case: Case) -> None:
    """In as many threads as `concurrency` says, tracks have the same captions."""
    captions, captioner = case.captions, case.part
    with ThreadPoolExecutor(captioner.concurrency) as pool:
        together = list(pool.map(captioner.caption, list(case.tracks) * 4))
    assert_that(together == captions * 4, f"In {captioner.concurrency} threads, tracks have other captions.")


@CHECKS.check
def inputs_untouched(case: Case) -> None:
    """The track that is captioned is not changed."""
    for track in case.tracks:
        before = deepcopy(track)
        case.part.caption(track)
        assert_that(track == before, "caption changes the track that it is given.")


@CHECKS.check
def unknown_track(case: Case) -> None:
    """A track of which nothing is known raises LookupError or ValueError."""
    try:
        said = case.part.caption({"track": "x", "file": "", "present": False, "tags": {}, "captions": []})
    except (LookupError, ValueError):
        return
    raise CheckFailed(f"A track of which nothing is known has the caption {said!r}: raise LookupError.")


@CHECKS.check
def no_global_randomness(case: Case) -> None:
    """The global generators of torch, numpy and random stand where they stood."""
    with randomness_untouched(case.part):
        case.part.caption(case.tracks[0])
