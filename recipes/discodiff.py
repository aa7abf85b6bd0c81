"""Train a codec diffusion model: `accelerate launch recipes/discodiff.py [--config FILE] [key=value ...]`.

It encodes the audio (or reuses the store), measures the latents, trains every stage of the pattern, generates samples
and writes a model card. Run it again to resume. Defaults: configs/starter.yaml; the paper's model: configs/paper.yaml.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from codecdiff.recipes import LogConsole, check_folders  # pyright: ignore[reportMissingImports]  # as installed
from pydantic import Field

from codecdiff import Pipeline, config, training
from codecdiff.data.audio_writer import write_audio
from codecdiff.data.code_store import CodeStore
from codecdiff.files import atomic_write_text
from codecdiff.pipeline import NonFiniteLatents
from codecdiff.pipeline.model_card import command_line, write_model_card
from codecdiff.splitters import select_stages

console = LogConsole()


class Experiment(config.ExperimentConfig):  # the model and its training: codecdiff/config/schema.py
    output: Path = Path("runs/discodiff")
    stage: str = "all"  # or the name of one stage, to train it alone
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None  # null: what `accelerate launch` says
    report_to: str | list[str] = "tensorboard"  # trackers of accelerate, as in wandb; all: those installed; or none
    prompts: list[str] = Field(default=[])  # to sample; none: captions of the music
    seconds: float = Field(default=10.0, ge=0.001, le=3600)  # of each sample

    @property
    def model(self) -> Path:
        return self.output / "model"

    @property
    def store(self) -> Path:
        return self.data.store or self.output / "store"


def train(file: Path, overrides: Sequence[str] = (), plan: Mapping[str, Any] | None = None) -> None:
    """Train the model that a configuration file with overrides describes; `plan` only prints what that would take."""
    e = config.load_config(Experiment, file, overrides)
    pipeline = training.new_pipeline(e, skeleton=plan is not None)
    selected, unused = select_stages(pipeline.stage_names, e.stage, e.stages, overrides)
    jobs = [training.new_stage(e, pipeline, i, "meta") for i in selected]  # bad settings are refused before training
    stages = [stage for stage, _ in jobs]
    training.check_warm_starts(e, pipeline, stages, e.model)
    training.check_states(e, stages, e.model)
    if plan is not None:
        from codecdiff.profiling import Assumptions, plan_report

        precision = e.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        assumptions = Assumptions(**plan)
        return print(plan_report(e, pipeline, jobs, e.store, mixed_precision=precision, assumptions=assumptions))
    check_folders(e.data.audio, e.store, e.output)
    accelerator = new_accelerator(e)
    console.quiet = not accelerator.is_main_process  # one process reports
    for name in unused:
        console.log(f"{file.name}'s settings of '{name}' are unused: the stages are {', '.join(pipeline.stage_names)}")
    console.log(f"Music: {e.data.audio or e.store}. Output: {e.output}")
    train_stages(e, accelerator, pipeline, selected)
    accelerator.end_training()
    if accelerator.is_main_process and len(pipeline.stages) == len(pipeline.stage_names):
        write_model_card(e.model)
        end_run(e, pipeline)
        console.log(f'Try it: codecdiff generate "PROMPT" --model {e.output} -o out.wav')


def train_stages(e: Experiment, accelerator: Accelerator, pipeline: Pipeline, selected: list[int]) -> None:
    """Open the data, train the selected stages of a pipeline without any, and load all that are trained."""
    from codecdiff.cli.console import track
    from codecdiff.pipeline.vocabulary import spread_captions

    pipeline.to(accelerator.device)
    with accelerator.main_process_first():
        store = training.open_data(e, pipeline, e.store, e.model, console.log)
        e.prompts = e.prompts or spread_captions(store, pipeline.conditioner)
        progress = partial(track, what="Encoding prompts", console=console)
        training.prepare_prompts(pipeline, store, e.prompts, track=progress, report=console.log)
    for i in selected:
        with training.lock_stage(e.model, pipeline.stage_names[i], is_main_process=accelerator.is_main_process):
            train_stage(e, accelerator, pipeline, store, i)
        accelerator.free_memory()  # of what it prepared
    pipeline.load_stages(e.model, allow_local_parts=True)


def train_stage(e: Experiment, accelerator: Accelerator, pipeline: Pipeline, store: CodeStore, i: int) -> None:
    """Train stage `i`, which this run has locked."""
    from codecdiff.cli.console import track
    from codecdiff.profiling import step_cost
    from codecdiff.training.run_record import record_training

    options: Any = {"metadata": {"command": command_line(sys.argv)}, "report": console.log}
    trainer = training.new_trainer(e, pipeline, i, e.model, **options)
    trainer.prepare(accelerator, step_cost(pipeline, training.new_stage(e, pipeline, i, "meta")))
    name, settings = trainer.stage.name, trainer.config
    data = training.StageData(store, pipeline, i, settings, e.data, seed=e.seed)
    console.log(f"{name}: {trainer.num_parameters:,} parameters, {len(data.crops):,} crops in an epoch")
    if not data.has_validation_tracks:
        console.log("No track is left for validation: the validation loss is that of training tracks")
    pipeline.load_stages(e.model, count=i, allow_local_parts=True)  # its own may be damaged, and is published again
    before, resumed_from = pipeline.stages, trainer.step_count

    def write_validation_sample(count: int) -> None:
        is_due = settings.validation_steps and count % settings.validation_steps == 0 and len(before) == i
        file = e.output / "validation-samples" / f"{name}-{count:06d}.wav"
        if is_due and accelerator.is_main_process and not (count == resumed_from and file.exists()):
            pipeline.stages = [*before, trainer.ema_stage()]
            sampling: Any = {"audio_length_in_s": settings.crop_seconds, "seed": e.seed, "partial": True}
            try:
                training.log_sample(accelerator, f"{name}/sample", pipeline(e.prompts[:1], **sampling), file, count)
            except NonFiniteLatents as error:  # of a young model: it trains on
                console.log(str(error))

    options = {"report": console.log, "log": lambda row, line: console.log(line), "after_step": write_validation_sample}
    with record_training(e, pipeline, store, trainer, e.model, Path(__file__)):
        trainer.train(data, e.model, track=partial(track, what=name, console=console), **options)
    console.log(training.no_progress_note(name, trainer.rows) or f"{name} is trained")
    accelerator.wait_for_everyone()


def new_accelerator(e: Experiment) -> Accelerator:
    options: Any = {"gradient_accumulation_steps": e.train.gradient_accumulation_steps, "report_to": e.report_to}
    return training.new_accelerator(e.output, e.mixed_precision, config=e.model_dump(mode="json"), **options)


def end_run(e: Any, pipeline: Pipeline) -> None:
    """Generate the prompts of an experiment into the folder `samples`, and call the hooks, which write its page."""
    pipeline.data = {}  # no note on words that only an adapter has learned
    rows = [{"file_name": f"{number:02d}.wav", "text": prompt} for number, prompt in enumerate(e.prompts)]
    for row, audio in zip(rows, pipeline(e.prompts, audio_length_in_s=e.seconds, seed=e.seed).audios, strict=True):
        write_audio(e.output / "samples" / row["file_name"], audio, pipeline.sample_rate)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write_text(e.output / "samples" / "metadata.jsonl", lines)
    training.call_run_end_hooks(e.output)


if __name__ == "__main__":
    from codecdiff.cli.train import run_recipe

    run_recipe(train)
