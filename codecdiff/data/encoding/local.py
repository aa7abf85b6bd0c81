"""The engine of one machine: processes that run tasks, one per core or GPU, replaced if they die."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

import torch

from codecdiff.data.encoding.job import EncodingIncomplete, Engine, Job, ReportTracks, Task, TaskResult
from codecdiff.data.encoding.worker import run_in_process, run_task
from codecdiff.interfaces.codec import Codec

START_METHOD = "spawn"  # a forked process can use neither a GPU nor torch's threads
MAX_ATTEMPTS = 3  # at a task
MIN_SECONDS = 1800.0  # of audio per process that are worth starting it


def local_devices(name: str) -> list[torch.device]:
    """Return one device per process: 'cpu' for every core, all GPUs for 'cuda', and one GPU for 'cuda:1'."""
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [device] * cores
    if device.index is not None or device.type != "cuda":
        return [device]
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def local_engine(device: str, workers: int | None = None) -> Engine:
    """Return the engine of this machine.

    Args:
        device: Where to compute: 'cpu', 'cuda' for all GPUs, or 'cuda:1'. Empty: all GPUs, if there are any.
        workers: Number of processes. By default one per core or GPU, as long as each has enough to do. One worker runs
            in this process.

    """

    def engine(tasks: Sequence[Task], job: Job, codec: Codec, report: ReportTracks) -> Iterator[TaskResult]:
        devices = local_devices(device)
        useful = math.ceil(sum(task.seconds for task in tasks) / MIN_SECONDS)
        count = min(len(tasks), workers or min(len(devices), useful))
        if count <= 1:
            return run_in_process(tasks, job, codec, report)
        return run_in_processes(tasks, job, [devices[i % len(devices)] for i in range(count)], report)

    return engine


class Worker:
    """A process that runs one task at a time. `tracks` is how many of the task's tracks are done."""

    def __init__(self, job: Job, device: torch.device, task: Task):
        context = multiprocessing.get_context(START_METHOD)
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, job, device), daemon=True)  # pyright: ignore[reportAttributeAccessIssue]
        self.process.start()
        other.close()  # so that the end of the process closes the pipe
        self.device = device
        self.send(task)

    def send(self, task: Task) -> None:
        """Let the process run a task."""
        self.task, self.tracks = task, 0
        with suppress(OSError):  # if it is dead, reading from the pipe will fail
            self.pipe.send(task)

    def receive(self) -> TaskResult | int | None:
        """Return a result, a number of tracks that are done, or None if it died.

        Raises EncodingIncomplete for an error that stops all workers.
        """
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(message, str):
            raise EncodingIncomplete(f"{message} What is done is saved: the same command resumes from there.")
        if isinstance(message, int):
            self.tracks = message
        return message

    def stop(self) -> None:
        """Kill the process. Its task is as if it had not begun."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def failure(self) -> str:
        """Return that the process died too often at its task, and at which of its tracks."""
        file = self.task.tracks[min(self.tracks, len(self.task.tracks) - 1)].file
        return (
            f"Task {self.task.index} failed: its worker died {MAX_ATTEMPTS} times (exit {self.process.exitcode}; -9 is "
            f"killed, often because memory ran out), the last time at '{file}'. Use fewer --workers, or empty that "
            "file to have it skipped."
        )


def _work(pipe: Connection, job: Job, device: torch.device) -> None:
    """Run the tasks that come through a pipe, and report tracks and results, until the other end is closed."""
    torch.set_num_threads(1)
    try:
        codec = job.codec(device)
        while True:
            task = pipe.recv()
            pipe.send(run_task(task, job, codec, lambda task, tracks: pipe.send(tracks)))
    except (EOFError, BrokenPipeError):
        return
    except (ValueError, LookupError, OSError, ImportError) as error:  # a full disk, say: another attempt is of no use
        pipe.send(f"A worker cannot continue: {type(error).__name__}: {error}")


def run_in_processes(
    tasks: Sequence[Task], job: Job, devices: Sequence[torch.device], report: ReportTracks
) -> Iterator[TaskResult]:
    """Run tasks in one process per device. A process that dies is replaced, and its task tried three times in all.

    Raises EncodingIncomplete if a process cannot continue, or, once all others are done, if tasks failed.
    """
    queue, deaths, failures = deque(tasks), Counter[int](), list[str]()
    workers: list[Worker] = []

    def start(device: torch.device) -> None:
        if queue:
            workers.append(Worker(job, device, queue.popleft()))

    try:
        for device in devices:
            start(device)
        while workers:
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                message = worker.receive()
                if isinstance(message, int):
                    report(worker.task.index, message)
                    continue
                if message is not None:
                    yield message
                    if queue:
                        worker.send(queue.popleft())
                        continue
                workers.remove(worker)
                worker.stop()
                if message is None:  # it died
                    deaths[worker.task.index] += 1
                    if deaths[worker.task.index] < MAX_ATTEMPTS:
                        queue.appendleft(worker.task)
                    else:
                        failures.append(worker.failure())
                    start(worker.device)
    finally:
        for worker in workers:
            worker.stop()
    if failures:
        failures.append("All other tasks are done and saved. The same command tries these again.")
        raise EncodingIncomplete("\n".join(failures))
