"""The checks of captioners, for tests and for `codecdiff check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from codecdiff.testing import (
    Call,
    CheckFailed,
    CheckRequest,
    CheckRun,
    Checks,
    Result,
    assert_that,
    check_deterministic,
    check_inputs_untouched,
    check_no_global_randomness,
    example_audio,
)
from codecdiff_datasets.captioner import Captioner, Usage
from codecdiff_datasets.captioning import one_line


@dataclass
class CaptionerCase:
    """A captioner that was not used before, and at least two tracks that it captions differently."""

    part: Captioner
    tracks: Sequence[Mapping[str, Any]]

    @cached_property
    def captions(self) -> list[str]:
        """Captions of the tracks, computed once: they may cost money."""
        return [self.part.caption(track) for track in self.tracks]

    def calls(self) -> Iterator[Call]:
        """Yield `caption` with a copy of every track."""
        return (Call("caption", self.part.caption, (deepcopy(track),)) for track in self.tracks)


CHECKS: Checks[CaptionerCase] = Checks("captioners")


def run_captioner_checks(request: CheckRequest) -> CheckRun:
    """Build a captioner, and run its checks on two tracks of tones and noise."""
    captioner = request.build()
    case = CaptionerCase(captioner, example_tracks(request.folder))
    return CheckRun(captioner, [f"checked with {len(case.tracks)} tracks"], CHECKS.run(captioner, case))


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
    return CHECKS.assert_all(captioner, CaptionerCase(captioner, tracks))


@CHECKS.check
def check_options(case: CaptionerCase) -> None:
    """`incidental` names options of the captioner, and `concurrency` is at least 1."""
    captioner = case.part
    unknown = set(captioner.incidental) - captioner.arguments.keys()
    assert_that(not unknown, f"incidental names {sorted(unknown)}, which are not options.")
    threads = captioner.concurrency
    assert_that(type(threads) is int and threads >= 1, f"concurrency is {threads!r}, not a number of threads.")


@CHECKS.check
def check_estimate(case: CaptionerCase) -> None:
    """`estimate` returns a Usage without using a server."""
    assert_that(isinstance(case.part.estimate(case.tracks), Usage), "estimate does not return a Usage.")
    assert_that(case.part.usage() == Usage(), "estimate uses a server, or the captioner was used before.")


@CHECKS.check
def check_one_line_of_text(case: CaptionerCase) -> None:
    """A caption is one line of printable text, and not empty."""
    for caption in case.captions:
        assert_that(isinstance(caption, str) and caption, f"{caption!r} is not a caption: expected text.")
        assert_that(caption == one_line(caption), f"{caption!r} is not one line of printable text.")


@CHECKS.check
def check_tells_tracks_apart(case: CaptionerCase) -> None:
    """Two different tracks have different captions."""
    assert_that(len(set(case.captions)) > 1, "All tracks have the same caption: the check is empty.")


CHECKS.check(check_deterministic)


@CHECKS.check
def check_threads(case: CaptionerCase) -> None:
    """In as many threads as `concurrency` says, tracks have the same captions."""
    captions, captioner = case.captions, case.part
    with ThreadPoolExecutor(captioner.concurrency) as pool:
        together = list(pool.map(captioner.caption, list(case.tracks) * 4))
    assert_that(together == captions * 4, f"In {captioner.concurrency} threads, tracks have other captions.")


CHECKS.check(check_inputs_untouched)


@CHECKS.check
def check_unknown_track(case: CaptionerCase) -> None:
    """A track without audio, tags and captions raises LookupError or ValueError."""
    try:
        caption = case.part.caption({"track": "x", "file": "", "present": False, "tags": {}, "captions": []})
    except (LookupError, ValueError):
        return
    raise CheckFailed(f"A track without audio, tags and captions has the caption {caption!r}: raise LookupError.")


CHECKS.check(check_no_global_randomness)
