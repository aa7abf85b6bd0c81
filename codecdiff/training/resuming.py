"""Whether the state of training in a model folder is of the stage that is to be trained, and stopping in between."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

from codecdiff.config.schema import ExperimentConfig, TrainConfig
from codecdiff.diffusion.noise_schedule import scheduler_from_config, scheduler_to_config
from codecdiff.errors import InvalidValue
from codecdiff.pipeline.checkpoint import config_differences
from codecdiff.pipeline.code_version import warn_of_code_changes
from codecdiff.pipeline.stage import Stage
from codecdiff.pipeline.stage_folder import STATE, find_state, read_stage_config

# Each has one value in a run
CHANGE = "{name} changes from {saved} to {current}"
RUN_FACTS = ("seed", "validation_fraction", "split_seed", "gradient_accumulation_steps", "noise_device")


class TrainingStopped(KeyboardInterrupt):
    """Ctrl+C in training; the message says what is saved."""


@contextmanager
def stop_after_step(announce: Callable[[], None], *, enabled: bool = True) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl+C announce a stop instead of raising; yields the function that tells whether it came.

    The second one raises at once. Where Ctrl+C does not raise, or if not `enabled`, nothing changes.
    """
    usual = signal.getsignal(signal.SIGINT)
    if not enabled or usual is not signal.default_int_handler or current_thread() is not main_thread():
        yield lambda: False
        return
    requested = Event()

    def stop(*arguments: Any) -> None:
        signal.signal(signal.SIGINT, usual)
        requested.set()
        announce()

    signal.signal(signal.SIGINT, stop)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


def check_states(experiment: ExperimentConfig, stages: Sequence[Stage], model: Path) -> None:
    """Check, before anything is written, that each of the `stages` is new or can be resumed from the model folder.

    Raises InvalidValue or DamagedFile.
    """
    for stage in stages:
        if path := find_state(model / stage.name):
            check_same_stage(stage, path, allow_changes=experiment.allow_changes)


def check_same_stage(stage: Stage, path: Path, *, allow_changes: bool = False) -> dict[str, Any]:
    """Check that a state of training is of this very stage and run, and take over facts that only the state knows.

    Those are where it started from, and what was changed since. Returns what it records of its training. Warns of
    changed code. Raises InvalidValue for another stage, and for another seed, validation split or accumulation unless
    `allow_changes` records them. Other changed settings are recorded, or nothing is if no step is left to train.
    """
    home = path.parent if path.name == STATE else path.parent.parent
    saved, spec = read_stage_config(home if path.name == STATE else path), stage.to_config()
    # a folder of an older diffusers lacks newer options
    saved["train_scheduler"] = scheduler_to_config(scheduler_from_config(saved["train_scheduler"]))
    keys = ("denoiser", "train_scheduler", "noise_color")
    differ = [line for key in keys for line in config_differences(saved[key], spec[key], key)]
    before, now = saved["training"], stage.facts
    differ += config_differences(before.get("distilled", {}), now.get("distilled", {}), "distilled")
    if differ:
        raise InvalidValue(
            f"{home} holds another stage in training: {'; '.join(differ)}. Choose another output folder, or delete it."
        )
    both = [key for key in RUN_FACTS if key in before and key in now]
    changes = [line for key in both for line in config_differences(before[key], now[key], key, CHANGE)]
    if changes and not allow_changes:
        raise InvalidValue(
            f"{home} was trained with other settings: {'; '.join(changes)}. Restore them, choose another output "
            "folder, or resume with --allow-changes: the model card then records the change. With another seed or "
            "split, the model may train on tracks of its validation set."
        )
    settings = sorted(TrainConfig.model_fields.keys() & before.keys() & now.keys() - {*RUN_FACTS, "max_train_steps"})
    if now.get("max_train_steps", math.inf) <= before["steps"]:
        changes, names = [], (*both, *settings, "max_train_steps", "command")
        now.update({key: before[key] for key in names if key in before})
    else:
        changes += [line for key in settings for line in config_differences(before[key], now[key], key, CHANGE)]
    warn_of_code_changes(saved.get("code", {}), spec["code"], home)
    if "start_from" in before:
        now["start_from"] = before["start_from"]
    changes = [f"from step {before['steps']} on, {line}" for line in changes]
    if changes := [*before.get("changes", []), *changes]:
        now["changes"] = changes
    return before
