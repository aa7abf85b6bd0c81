"""The cluster: the one that RAY_ADDRESS names or that runs on this machine, else a new one of this machine alone.

Every node needs the same Python packages, and the same files under the same paths, on a shared file system.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
import ray.data

OBJECT_STORE_BYTES = 100 * 2**20  # if this starts Ray


def connect() -> None:
    """Connect to the existing cluster, or start Ray on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns about impossible events
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
        except ConnectionError:
            if "RAY_ADDRESS" in os.environ:
                raise
            ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def place(device: str, workers: int | None, num_tasks: int) -> tuple[str, int, int]:
    """Return the device of an actor, the GPUs it takes, and the number of actors: one per core or GPU by default."""
    resources = ray.cluster_resources()
    device = (device or ("cuda" if resources.get("GPU") else "cpu")).split(":")[0]
    gpus = 0 if device == "cpu" else 1
    return device, gpus, min(num_tasks, workers or max(1, int(resources.get("GPU" if gpus else "CPU", 1))))
