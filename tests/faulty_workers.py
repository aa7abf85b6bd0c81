"""Workers that die or fail. Spawned processes find them by name, so they are here and not in the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from codecdiff.data.encoding import local, worker
from codecdiff.data.encoding.job import Job, ReportTracks, Task, TaskResult
from codecdiff.interfaces import Codec

RunTask = Callable[[Task, Job, Codec, ReportTracks], TaskResult]
work, run_task = local._work, worker.run_task  # what these replace


def _work_with(run: RunTask, pipe: Connection, job: Job, device: torch.device) -> None:
    local.run_task = run
    work(pipe, job, device)


def killed_once(pipe: Connection, job: Job, device: torch.device) -> None:
    """Work, but die the first time at two of the tasks."""

    def run(task: Task, job: Job, codec: Codec, report: ReportTracks) -> TaskResult:
        mark = job.draft.with_name(f"killed-{task.index}")
        if task.index in (0, 3) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return run_task(task, job, codec, report)

    _work_with(run, pipe, job, device)


def killed_always(pipe: Connection, job: Job, device: torch.device) -> None:
    """Work, but die whenever one of the tasks comes."""

    def run(task: Task, job: Job, codec: Codec, report: ReportTracks) -> TaskResult:
        if task.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return run_task(task, job, codec, report)

    _work_with(run, pipe, job, device)


def disk_full(pipe: Connection, job: Job, device: torch.device) -> None:
    """Fail at every task as on a full disk."""

    def run(task: Task, job: Job, codec: Codec, report: ReportTracks) -> TaskResult:
        raise OSError(28, "No space left on device")

    _work_with(run, pipe, job, device)
