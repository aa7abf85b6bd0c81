"""The engine of one machine: processes that encode tasks, one per core or GPU, replaced when they die."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

import torch

from codecdiff.data.encoding.job import Done, Engine, Job, Task, Tell, Unfinished
from codecdiff.data.encoding.worker import here, run_task
from codecdiff.interfaces import Codec

START = "spawn"  # a forked process could use neither a GPU nor torch's threads
TRIES = 3  # of a task, until it is given up
WORTH = 1800.0  # seconds of audio per process that are worth starting it


def devices_here(name: str) -> list[torch.device]:
    """Give a device per process: for 'cpu' every core has one, 'cuda' is every GPU, and 'cuda:1' is that one."""
    device = torch.device(name)
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [device] * cores
    if device.index is not None or device.type != "cuda":
        return [device]
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def local(device: str, workers: int | None = None) -> Engine:
    """Give the engine of this machine, with so many processes on a device, or on all if its number is not said.

    Unless told otherwise there is one per core or GPU, but none that would have little to do. One is this process.
    """

    def engine(tasks: Sequence[Task], job: Job, codec: Codec, tell: Tell) -> Iterator[Done]:
        devices = devices_here(device)
        useful = math.ceil(sum(task.seconds for task in tasks) / WORTH)
        count = min(len(tasks), workers or min(len(devices), useful))
        if count <= 1:
            return here(tasks, job, codec, tell)
        return in_processes(tasks, job, [devices[i % len(devices)] for i in range(count)], tell)

    return engine


class Worker:
    """A process that does one task at a time. `tracks` is how many of the task's tracks are done."""

    def __init__(self, job: Job, device: torch.device, task: Task):
        context = multiprocessing.get_context(START)
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, job, device), daemon=True)  # pyright: ignore[reportAttributeAccessIssue]
        self.process.start()
        other.close()  # so that the end of the process ends the pipe
        self.device = device
        self.give(task)

    def give(self, task: Task) -> None:
        """Have it do a task."""
        self.task, self.tracks = task, 0
        with suppress(OSError):  # if it is dead, reading from it will tell
            self.pipe.send(task)

    def stop(self) -> None:
        """Kill the process. What it was doing is as if it had not begun."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, job: Job, device: torch.device) -> None:
    """Do the tasks that come through a pipe, and tell of every track and of the end, until nobody is there to tell."""
    torch.set_num_threads(1)
    try:
        codec = job.codec(device)
        while True:
            task = pipe.recv()
            pipe.send(run_task(task, job, codec, lambda number, tracks: pipe.send(tracks)))
    except (EOFError, BrokenPipeError):
        return
    except (ValueError, LookupError, OSError, ImportError) as error:  # a full disk, say: no use in trying again
        pipe.send(f"A worker cannot go on: {type(error).__name__}: {error}")


def in_processes(tasks: Sequence[Task], job: Job, devices: Sequence[torch.device], tell: Tell) -> Iterator[Done]:
    """Do tasks in a process per device. One that dies is replaced, and its task tried again, three times in all.

    Raises Unfinished if a process cannot go on, or, once all else is done, if tasks were given up.
    """
    queue, deaths, lost = deque(tasks), Counter[int](), list[str]()
    workers: dict[Connection, Worker] = {}

    def start(device: torch.device) -> None:
        if queue:
            worker = Worker(job, device, queue.popleft())
            workers[worker.pipe] = worker

    try:
        for device in devices:
            start(device)
        while workers:
            ready = wait(list(workers))
            for pipe in [pipe for pipe in workers if pipe in ready]:
                worker = workers[pipe]
                try:
                    told = pipe.recv()
                except (EOFError, OSError):
                    workers.pop(pipe).stop()
                    deaths[worker.task.number] += 1
                    if deaths[worker.task.number] < TRIES:
                        queue.appendleft(worker.task)
                    else:
                        lost.append(_given_up(worker))
                    start(worker.device)
                    continue
                if isinstance(told, str):
                    raise Unfinished(f"{told} What is done is kept: the same command goes on from there.")
                if isinstance(told, int):
                    worker.tracks = told
                    tell(worker.task.number, told)
                    continue
                yield told
                if queue:
                    worker.give(queue.popleft())
                else:
                    workers.pop(pipe).stop()
    finally:
        for worker in workers.values():
            worker.stop()
    if lost:
        raise Unfinished("\n".join([*lost, "All else is done and kept. The same command tries these again."]))


def _given_up(worker: Worker) -> str:
    tracks = worker.task.tracks
    return (
        f"Task {worker.task.number} was given up: its worker died {TRIES} times (exit {worker.process.exitcode}; -9 is "
        f"killed, often for want of memory), the last time at '{tracks[min(worker.tracks, len(tracks) - 1)].file}'. "
        "Use fewer --workers, or empty that file, to have it skipped."
    )
