"""Encoding of audio into a store of codes: in this process, on this machine or on a cluster."""

from typing import TYPE_CHECKING

from codecdiff import lazy_exports

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

__getattr__, __dir__ = lazy_exports(__name__)
