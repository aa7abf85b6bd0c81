"""The engine of evaluation: actors load a model, and generate clips.

Clips are written by the actors, or their codes pass through Ray; audio does not.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from codecdiff.errors import UserError
from codecdiff_ray.cluster import connect, place
from codecdiff_ray.engine import MAX_ATTEMPTS, RESUME_HINT

Load = Callable[..., Any]  # called with `device`; returns a model
Task = Callable[[Any], Any]  # of the model


class GenerationFailed(UserError, OSError):
    """Ray failed, or a task killed its worker too often."""


class GenerationWorker:
    """An actor: a process with a model, on a node of the cluster, in the folder of the command."""

    def __init__(self, load: Load, device: str, folder: str):
        torch.set_num_threads(1)
        os.chdir(folder)
        self.model = load(device=device)

    def run(self, task: Task) -> Any:
        """Return the result of a task."""
        return task(self.model)


def ray_generation_engine(device: str = "", workers: int | None = None) -> Any:
    """Return the engine of a cluster: a function of `load` and tasks that yields indices of tasks with their results.

    Args:
        device: 'cpu' or 'cuda'. By default the GPUs of the cluster if it has any, whatever this machine has.
        workers: Maximum number of actors. By default one per core or GPU of the cluster.

    """

    def engine(load: Load, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        try:
            yield from _run_in_actors(load, tasks, device, workers)
        except RayTaskError as error:  # the task itself failed
            raise error.cause from error
        except RayError as error:
            raise GenerationFailed(f"Ray failed: {str(error).strip().splitlines()[-1]} {RESUME_HINT}") from error

    return engine


def _run_in_actors(load: Load, tasks: Sequence[Task], device: str, workers: int | None) -> Iterator[tuple[int, Any]]:
    """Run one task at a time on each actor, and yield results as they arrive.

    A task whose actor dies is tried MAX_ATTEMPTS times, on other nodes if its node is lost. An actor ends when no tasks
    are left: one that was lost may need its place.
    """
    connect()
    device, gpus, num_actors = place(device, workers, len(tasks))
    actor_class = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=MAX_ATTEMPTS - 1)(
        GenerationWorker
    )
    waiting, running = deque(enumerate(tasks)), {}

    def start_next(actor: Any) -> None:
        if waiting:
            i, task = waiting.popleft()
            running[actor.run.remote(task)] = i, actor

    for _ in range(num_actors):
        start_next(actor_class.remote(load, device, os.getcwd()))
    while running:
        (done,), _ = ray.wait(list(running))
        i, actor = running.pop(done)
        yield i, ray.get(done)
        start_next(actor)
