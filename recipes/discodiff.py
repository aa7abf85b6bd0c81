"""Train a codec diffusion model: `accelerate launch recipes/discodiff.py [--config FILE] [key=value ...]`.

It encodes the audio (or reuses the store), measures the latents, trains every stage of the pattern, generates samples
and writes a model card. Run it again to resume. Defaults: configs/starter.yaml; the paper's model: configs/paper.yaml.
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from pydantic import Field
from rich.console import Console
from rich.progress import track as progress

from codecdiff import Pipeline, config, training
from codecdiff.data.audio import write_audio
from codecdiff.data.code_store import CodeStore
from codecdiff.files import atomic_write_text, require_writable
from codecdiff.pipeline.model_card import command_line, write_model_card
from codecdiff.splitters import select_stages

console = Console(stderr=True, log_path=False, width=None if sys.stderr.isatty() else 160)


class Experiment(config.ExperimentConfig):  # the model and its training: codecdiff/config/schema.py
    output: Path = Path("runs/discodiff")
    stage: str = "all"  # or the name of one stage, to train it alone
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None  # null: what `accelerate launch` says
    prompts: list[str] = Field(default=[""])
    seconds: float = Field(default=10.0, gt=0, le=3600)  # of each sample

    @property
    def model(self) -> Path:
        return self.output / "model"

    @property
    def store(self) -> Path:
        return self.data.store or self.output / "store"


def train_stage(e: Experiment, accelerator: Accelerator, pipeline: Pipeline, store: CodeStore, i: int) -> None:
    metadata = {"command": command_line("accelerate launch", sys.argv)}
    trainer = training.new_trainer(e, pipeline, i, e.model, metadata=metadata, report=console.log)
    name, denoiser, train = trainer.stage.name, trainer.denoiser, trainer.config
    rank, is_main = accelerator.process_index, accelerator.is_main_process
    if is_main and trainer.step_count >= train.max_train_steps:  # trained; the settings of sampling may have changed
        trainer.save(e.model)
    trainer.network, trainer.optimizer = accelerator.prepare(denoiser, trainer.optimizer)
    data = training.StageData(store, pipeline, i, train, e.data, seed=e.seed)
    size = sum(parameter.numel() for parameter in denoiser.parameters())
    console.log(f"{name}: {size:,} parameters, {len(data.crops)} crops in an epoch")
    if not data.has_validation_tracks:
        console.log("No track is left for validation: the validation loss is on tracks that are trained on")
    pipeline.load_stages(e.model)
    before, start, losses = pipeline.stages[:i], time.monotonic(), []
    steps = range(trainer.step_count, train.max_train_steps)
    for step in progress(steps, name, console=console):
        inputs = data.step(step, rank, accelerator.num_processes)
        losses.append(trainer.step(inputs, accelerator))
        count = step + 1
        if is_main and (count % train.checkpointing_steps == 0 or count == train.max_train_steps):
            row = trainer.validate(data.validation(), losses, time.monotonic() - start)
            trainer.save(e.model, row)
            accelerator.log({f"{name}/{key}": value for key, value in row.items()}, step=count)
            console.log(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
            losses = []
        if is_main and train.validation_steps and count % train.validation_steps == 0 and len(before) == i:
            pipeline.stages = [*before, trainer.ema_stage()]
            audio = pipeline.generate(e.prompts[:1], seconds=train.crop_seconds, seed=e.seed, partial=True)
            write_audio(e.output / "validation-samples" / f"{name}-{count:06d}.wav", audio[0], pipeline.sample_rate)
    accelerator.wait_for_everyone()


def write_samples(e: Experiment, pipeline: Pipeline) -> None:
    rows = [{"file_name": f"{number:02d}.wav", "text": prompt} for number, prompt in enumerate(e.prompts)]
    for row, audio in zip(rows, pipeline.generate(e.prompts, seconds=e.seconds, seed=e.seed), strict=True):
        write_audio(e.output / "samples" / row["file_name"], audio, pipeline.sample_rate)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write_text(e.output / "samples" / "metadata.jsonl", lines)
    console.log(f'Samples: {e.output / "samples"}. More: codecdiff generate "PROMPT" --model {e.model} -o out.wav')


def main() -> None:
    from codecdiff.profiling import plan

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "starter.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    plan.Assumptions.add_options(parser)
    arguments = parser.parse_args()
    e = config.load_config(Experiment, arguments.config, arguments.overrides)
    if not arguments.plan:
        require_writable(e.output)
    pipeline, codec = training.new_pipeline(e, skeleton=arguments.plan)
    selected, unused = select_stages(pipeline.stage_names, e.stage, e.stages)
    jobs = [training.new_stage(e, pipeline, i, "meta") for i in selected]  # bad settings are refused before training
    training.check_warm_starts(e, pipeline, [stage for stage, _ in jobs], e.model)
    if arguments.plan:
        precision = e.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        assumptions = plan.Assumptions.of(arguments)
        return print(plan.plan_report(e, pipeline, jobs, e.store, mixed_precision=precision, assumptions=assumptions))
    accelerator = training.new_accelerator(e.output, e.mixed_precision)
    console.quiet = not accelerator.is_main_process  # one process reports
    pipeline.to(accelerator.device)
    for name in unused:
        console.log(f"Unused: the settings of stage '{name}'. This pattern has: {', '.join(pipeline.stage_names)}.")
    with accelerator.main_process_first():
        store = training.open_data(e, pipeline, codec, e.store, e.model, console.log)
        track = partial(progress, description="prompts", console=console, transient=True)
        training.prepare_prompts(pipeline, store, e.prompts, track=track, report=console.log)
    for i in selected:
        train_stage(e, accelerator, pipeline, store, i)
        accelerator.free_memory()  # of what it prepared
    pipeline.load_stages(e.model)
    is_complete = len(pipeline.stages) == len(pipeline.stage_names)
    if accelerator.is_main_process and is_complete:
        write_model_card(e.model)
        write_samples(e, pipeline)
    accelerator.end_training()
    if accelerator.is_main_process and is_complete:
        training.call_run_end_hooks(e.output)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. Run it again to resume from the last checkpoint.")
    except (ValueError, LookupError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
