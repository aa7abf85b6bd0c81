"""The engine of encoding: runs the tasks in a Ray Data pipeline.

Only names of files and results of tasks pass through Ray; its object store can be small.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray.data
import torch
from ray.exceptions import RayError

from codecdiff.data import Track
from codecdiff.data.encoding.job import EncodingIncomplete, Engine, Job, ReportTracks, Task, TaskResult
from codecdiff.data.encoding.worker import run_task
from codecdiff.interfaces import Codec
from codecdiff_ray.cluster import connect, place

MAX_ATTEMPTS = 3  # at a task whose worker dies
RESUME_HINT = "What is done is saved: the same command resumes from there."


class Encoder:
    """An actor: a process with a codec, on a node of the cluster."""

    def __init__(self, job: Job, device: str):
        torch.set_num_threads(1)
        self.job, self.codec = job, job.codec(device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Run the tasks of a batch, in JSON, and return their results, in JSON."""
        return {"result": [json.dumps(asdict(self._attempt(task_from_json(text)))) for text in batch["task"]]}

    def _attempt(self, task: Task) -> TaskResult:
        """Run a task, unless it has killed too many workers: Ray itself would try it forever.

        A task that is done and comes again, as after the loss of a node, does not count as an attempt.
        """
        if self.job.rows_file(task.index).is_file():
            return run_task(task, self.job, self.codec)
        marks = self.job.draft / "tasks"
        if len(list(marks.glob(f".{task.index:05d}.try-*"))) >= MAX_ATTEMPTS:
            return TaskResult(task.index, "", {}, {})
        (marks / f".{task.index:05d}.try-{uuid4().hex[:8]}").touch()
        return run_task(task, self.job, self.codec)


def task_to_json(task: Task) -> str:
    """Serialize a task."""
    tracks = [{**asdict(track), "file": str(track.file.absolute())} for track in task.tracks]
    return json.dumps({"index": task.index, "tracks": tracks, "seconds": task.seconds}, default=str)


def task_from_json(text: str) -> Task:
    """Deserialize a task."""
    task = json.loads(text)
    tracks = [Track(**{**t, "file": Path(t["file"]), "captions": tuple(t["captions"])}) for t in task["tracks"]]
    return Task(task["index"], tuple(tracks), task["seconds"])


def ray_engine(device: str = "", workers: int | None = None) -> Engine:
    """Return the engine of a cluster.

    Args:
        device: 'cpu' or 'cuda'. By default the GPUs of the cluster if it has any, whatever this machine has.
        workers: Maximum number of actors. By default one per core or GPU of the cluster.

    """

    def engine(tasks: Sequence[Task], job: Job, codec: Codec, report: ReportTracks) -> Iterator[TaskResult]:
        return run_in_actors(tasks, job, device, workers)

    return engine


def run_in_actors(tasks: Sequence[Task], job: Job, device: str, workers: int | None) -> Iterator[TaskResult]:
    """Run tasks in actors, and yield results as they arrive. Tasks of a node that is lost run on other nodes.

    Raises EncodingIncomplete if Ray or a task fails.
    """
    if not tasks:
        return
    for mark in job.draft.glob("tasks/.*.try-*"):  # of an earlier run
        mark.unlink()
    connect()
    device, gpus, max_actors = place(device, workers, len(tasks))
    rows = ray.data.from_items([{"task": task_to_json(task)} for task in tasks], override_num_blocks=len(tasks))
    results = rows.map_batches(
        Encoder,  # pyright: ignore[reportArgumentType] - a class whose instances are functions
        fn_constructor_args=(job, device),
        batch_size=1,
        # all actors from the beginning, but idle ones may end: an actor whose node is lost needs the place of another
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=max_actors, initial_size=max_actors, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=1,
        num_gpus=gpus,
    )
    failed: list[int] = []
    try:
        for row in results.iter_rows():
            result = TaskResult(**json.loads(row["result"]))
            if result.shard:
                yield result
            else:
                failed.append(result.index)
    except RayError as error:
        raise EncodingIncomplete(f"Ray failed: {str(error).strip().splitlines()[-1]} {RESUME_HINT}") from error
    if failed:
        raise EncodingIncomplete(f"Tasks {failed} failed: their workers died {MAX_ATTEMPTS} times each. {RESUME_HINT}")
