"""Progress of an encoding job: hours, speed and time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from codecdiff.data.encoding.job import Task


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
