"""The engine of a cluster: the same tasks as a Ray Data pipeline. It needs `codecdiff[ray]`.

A cluster is the one that RAY_ADDRESS names or that runs here, else one of this machine alone. Every node has the same
Python packages, and sees the audio and the folder of the store under the same paths: a shared file system. What passes
through Ray is names of files, and which tasks are done; its object store can be small.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from codecdiff.data.encoding.job import Done, Engine, Job, Task, Tell, Unfinished
from codecdiff.data.encoding.worker import run_task
from codecdiff.data.metadata import Track
from codecdiff.interfaces import Codec

TRIES = 3  # of a task whose worker dies
KEPT = "What is done is kept: the same command goes on from there."
OBJECTS = 100 * 2**20  # bytes of the object store, where this starts Ray


class Encoder:
    """An actor: a process with a codec, on a node of the cluster."""

    def __init__(self, job: Job, device: str):
        torch.set_num_threads(1)
        self.job, self.codec = job, job.codec(device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Do the tasks of a batch, written as JSON; give what became of each, as JSON."""
        return {"done": [json.dumps(asdict(self._try(_unpacked(text)))) for text in batch["task"]]}

    def _try(self, task: Task) -> Done:
        """Do a task, unless workers have died of it too often: Ray itself would go on for ever.

        One that is done and comes again, as after the loss of a node, counts as no try.
        """
        if self.job.rows_file(task.number).is_file():
            return run_task(task, self.job, self.codec)
        marks = self.job.draft / "tasks"
        if len(list(marks.glob(f".{task.number:05d}.try-*"))) >= TRIES:
            return Done(task.number, "", {}, {})
        (marks / f".{task.number:05d}.try-{uuid4().hex[:8]}").touch()
        return run_task(task, self.job, self.codec)


def _packed(task: Task) -> str:
    tracks = [{**asdict(track), "file": str(track.file.absolute())} for track in task.tracks]
    return json.dumps({"number": task.number, "tracks": tracks, "seconds": task.seconds}, default=str)


def _unpacked(text: str) -> Task:
    task = json.loads(text)
    tracks = [Track(**{**t, "file": Path(t["file"]), "captions": tuple(t["captions"])}) for t in task["tracks"]]
    return Task(task["number"], tuple(tracks), task["seconds"])


def on_ray(device: str = "", workers: int | None = None) -> Engine:
    """Give the engine of a cluster, with at most so many actors: unless told otherwise, one per core or GPU it has.

    Without a device they use the cluster's GPUs, if it has any, whatever there is where this runs.

    Raises ImportError if Ray is not installed.
    """
    try:
        import ray.data  # noqa: F401 - to say at once that it is missing; what runs imports it for itself
    except ImportError as error:
        raise ImportError(f"The engine 'ray' needs Ray ({error}): pip install 'codecdiff[ray]'.") from error

    def engine(tasks: Sequence[Task], job: Job, codec: Codec, tell: Tell) -> Iterator[Done]:
        return in_actors(tasks, job, device, workers)

    return engine


def in_actors(tasks: Sequence[Task], job: Job, device: str, workers: int | None) -> Iterator[Done]:
    """Do tasks in actors, and yield what became of each as it ends. Those of a node that is lost are done elsewhere.

    Raises Unfinished if Ray gives up.
    """
    import ray
    from ray.exceptions import RayError

    if not tasks:
        return
    for mark in job.draft.glob("tasks/.*.try-*"):  # of an earlier run
        mark.unlink()
    _connect()
    has = ray.cluster_resources()
    device = device or ("cuda" if has.get("GPU") else "cpu")
    gpus = 0 if device == "cpu" else 1
    most = min(len(tasks), workers or max(1, int(has.get("GPU" if gpus else "CPU", 1))))
    rows = ray.data.from_items([{"task": _packed(task)} for task in tasks], override_num_blocks=len(tasks))
    done = rows.map_batches(
        Encoder,  # pyright: ignore[reportArgumentType] - a class whose instances are functions
        fn_constructor_args=(job, device.split(":")[0]),
        batch_size=1,
        # all actors from the beginning, but idle ones may end: one whose node is lost needs the place of another
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=1,
        num_gpus=gpus,
    )
    lost: list[int] = []
    try:
        for row in done.iter_rows():
            result = Done(**json.loads(row["done"]))
            if result.shard:
                yield result
            else:
                lost.append(result.number)
    except RayError as error:
        raise Unfinished(f"Ray gave up: {str(error).strip().splitlines()[-1]} {KEPT}") from error
    if lost:
        raise Unfinished(f"Tasks {lost} were given up: their workers died {TRIES} times each. {KEPT}")


def _connect() -> None:
    """Join the cluster that there is, or start Ray on this machine."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of what cannot happen while this process lives
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
        except ConnectionError:
            if "RAY_ADDRESS" in os.environ:
                raise
            ray.init(address="local", object_store_memory=OBJECTS, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
