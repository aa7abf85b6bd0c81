"""Training: batches, the trainer of one stage, and the model that an experiment describes."""

from codecdiff.pipeline.stage_folder import lock_stage, read_logs
from codecdiff.training.accelerator import format_duration, log_sample, new_accelerator, no_progress_note
from codecdiff.training.batch import StageData, StageInput, stage_input
from codecdiff.training.experiment import (
    call_run_end_hooks,
    new_pipeline,
    new_stage,
    new_trainer,
    open_data,
    prepare_prompts,
    rows_hash,
)
from codecdiff.training.resuming import check_states
from codecdiff.training.trainer import StageTrainer, TrainingDiverged
from codecdiff.training.warm_start import check_warm_starts

__all__ = [
    "StageData",
    "StageInput",
    "StageTrainer",
    "TrainingDiverged",
    "call_run_end_hooks",
    "check_states",
    "check_warm_starts",
    "format_duration",
    "lock_stage",
    "log_sample",
    "new_accelerator",
    "new_pipeline",
    "new_stage",
    "new_trainer",
    "no_progress_note",
    "open_data",
    "prepare_prompts",
    "read_logs",
    "rows_hash",
    "stage_input",
]
