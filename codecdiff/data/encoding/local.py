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

    def receive(self) -> TaskResult | int | str | None:
        """Return a result, a number of tracks that are done, the error that stops all workers, or None if it died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        """Kill the process. Its task is as if it had not begun."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


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


class WorkerPool:
    """Processes with a queue of tasks. `failures` describes tasks that killed their workers too often."""

    def __init__(self, tasks: Sequence[Task], job: Job):
        self.job, self.queue, self.deaths = job, deque(tasks), Counter[int]()
        self.workers: dict[Connection, Worker] = {}
        self.failures: list[str] = []

    def start(self, device: torch.device) -> None:
        """Start a worker on a device, if there is a task for it."""
        if self.queue:
            worker = Worker(self.job, device, self.queue.popleft())
            self.workers[worker.pipe] = worker

    def wait(self) -> list[Worker]:
        """Wait until there are workers to receive from, and return them."""
        ready = wait(list(self.workers))
        return [worker for pipe, worker in self.workers.items() if pipe in ready]

    def next_task(self, worker: Worker) -> None:
        """Send a worker its next task, or stop it if there is none."""
        if self.queue:
            worker.send(self.queue.popleft())
        else:
            self.workers.pop(worker.pipe).stop()

    def replace(self, worker: Worker) -> None:
        """Replace a worker that died, and try its task again, unless it has been tried too often."""
        self.workers.pop(worker.pipe).stop()
        task = worker.task
        self.deaths[task.index] += 1
        if self.deaths[task.index] < MAX_ATTEMPTS:
            self.queue.appendleft(task)
        else:
            self.failures.append(
                f"Task {task.index} failed: its worker died {MAX_ATTEMPTS} times (exit {worker.process.exitcode}; -9 "
                "is killed, often because memory ran out), the last time at "
                f"'{task.tracks[min(worker.tracks, len(task.tracks) - 1)].file}'. Use fewer --workers, or empty that "
                "file to have it skipped."
            )
        self.start(worker.device)

    def stop(self) -> None:
        """Kill all workers."""
        for worker in self.workers.values():
            worker.stop()


def run_in_processes(
    tasks: Sequence[Task], job: Job, devices: Sequence[torch.device], report: ReportTracks
) -> Iterator[TaskResult]:
    """Run tasks in one process per device. A process that dies is replaced, and its task tried three times in all.

    Raises EncodingIncomplete if a process cannot continue, or, once all others are done, if tasks failed.
    """
    pool = WorkerPool(tasks, job)
    try:
        for device in devices:
            pool.start(device)
        while pool.workers:
            for worker in pool.wait():
                message = worker.receive()
                if message is None:
                    pool.replace(worker)
                elif isinstance(message, str):
                    raise EncodingIncomplete(f"{message} What is done is saved: the same command resumes from there.")
                elif isinstance(message, int):
                    worker.tracks = message
                    report(worker.task.index, message)
                else:
                    yield message
                    pool.next_task(worker)
    finally:
        pool.stop()
    if pool.failures:
        all_else = "All other tasks are done and saved. The same command tries these again."
        raise EncodingIncomplete("\n".join([*pool.failures, all_else]))
