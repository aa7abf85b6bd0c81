"""Encoding of audio into a store of codes: in this process, on this machine or on a cluster."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecdiff.data.encoding.encode import encode_tracks, hours_to_encode, open_store
    from codecdiff.data.encoding.job import EncodeConfig, EncodingIncomplete, Job, Task, TaskResult, fitting_clips
    from codecdiff.data.encoding.local import local_engine
    from codecdiff.data.encoding.progress import EncodingProgress
    from codecdiff.data.encoding.ray import ray_engine
    from codecdiff.data.encoding.worker import run_in_process, run_task

__all__ = [
    "EncodeConfig",
    "EncodingIncomplete",
    "EncodingProgress",
    "Job",
    "Task",
    "TaskResult",
    "encode_tracks",
    "fitting_clips",
    "hours_to_encode",
    "local_engine",
    "open_store",
    "ray_engine",
    "run_in_process",
    "run_task",
]

_MODULES = {
    "encode": ("encode_tracks", "hours_to_encode", "open_store"),
    "job": ("EncodeConfig", "EncodingIncomplete", "Job", "Task", "TaskResult", "fitting_clips"),
    "local": ("local_engine",),
    "progress": ("EncodingProgress",),
    "ray": ("ray_engine",),
    "worker": ("run_in_process", "run_task"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
