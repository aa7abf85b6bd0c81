"""How far an encoding is, and how long it will take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence

from codecdiff.data.encoding.job import Task

# all tasks


class Tally:
    """How far the encoding of a draft is: hours done of all, how many times faster than real time, time left."""

    def __init__(self, tasks: Sequence[Task], done: Collection[int]):
        self.total = sum(task.seconds for task in tasks)  # seconds of audio
        self.before = sum(task.seconds for task in tasks if task.number in done)  # in earlier runs
        self.seconds, self.tracks, self.skipped = 0.0, 0, 0  # of this run
        self._each = {task.number: task.seconds / len(task.tracks) for task in tasks}  # seconds of a track, on average
        self._made: Counter[int] = Counter()  # task -> tracks done
        self._began = time.monotonic()

    def update(self, number: int, tracks: int) -> None:
        """Take note that so many tracks of a task are done."""
        more, self._made[number] = tracks - self._made[number], tracks
        self.tracks += more
        self.seconds += more * self._each[number]

    @property
    def speed(self) -> float:
        """Seconds of audio per second of this run."""
        return self.seconds / max(1e-9, time.monotonic() - self._began)

    def __str__(self) -> str:
        left = (self.total - self.before - self.seconds) / self.speed if self.speed else 0.0
        speed = f"{self.speed:.0f}" if self.speed >= 10 else f"{self.speed:.1f}"
        told = f"{(self.before + self.seconds) / 3600:.2f} of {self.total / 3600:.2f} h, {speed} x real time"
        return f"{told}, {_duration(left)} left" + f", {self.skipped} skipped" * bool(self.skipped)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
