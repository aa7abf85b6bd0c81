"""Train a codec diffusion model: `accelerate launch recipes/discodiff.py [--config FILE] [key=value ...]`.

It encodes the audio (or reuses the store), measures the latents, trains every stage of the pattern, samples and
reports. Run it again to go on where it stopped. Defaults: configs/starter.yaml; the paper's model: configs/paper.yaml.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from pydantic import Field
from rich.console import Console
from rich.progress import track as progress

from codecdiff import Pipeline, config
from codecdiff.config.schema import ExperimentConfig
from codecdiff.data.audio import write_audio
from codecdiff.data.code_store import CodeStore
from codecdiff.files import require_writable
from codecdiff.pipeline.model_card import command_line, write_model_card
from codecdiff.profiling import plan
from codecdiff.splitters import chosen_stages
from codecdiff.training.batch import StageData
from codecdiff.training.experiment import check_starts, new_pipeline, new_stage, open_data, prepare_prompts, start_of
from codecdiff.training.trainer import StageTrainer, new_accelerator

console = Console(stderr=True, log_path=False, width=None if sys.stderr.isatty() else 160)


class Experiment(ExperimentConfig):  # the model and its training: codecdiff/experiments.py
    output: Path = Path("runs/discodiff")
    stage: str = "all"  # or the name of one stage, to train it alone
    precision: Literal["no", "bf16"] = "no"
    prompts: list[str] = Field(default=[""])
    seconds: float = Field(default=10.0, gt=0, le=3600)  # of each sample


def train_stage(e: Experiment, accelerator: Accelerator, pipeline: Pipeline, store: CodeStore, i: int, say) -> None:
    facts = {"command": command_line("accelerate launch", sys.argv)}
    stage, train, loop = new_stage(e, pipeline, i, facts=facts)
    model, main = e.output / "model", accelerator.is_main_process
    name, denoiser = stage.name, stage.denoiser.to(accelerator.device)
    trainer = StageTrainer(stage, seed=e.seed, **train.model_dump())
    if trainer.resume(model):
        say(f"{name}: going on from step {trainer.step_count} of {train.steps}")
    elif source := start_of(e, pipeline, name, model):
        say(f"{name} {trainer.start_from(source)}")
    if main and trainer.step_count >= train.steps:  # nothing to train; how it is sampled may have changed
        trainer.save(model)
    trainer.network, trainer.optimizer = accelerator.prepare(denoiser, trainer.optimizer)
    sizes = {"seconds": loop.seconds, "batch_size": loop.batch_size, "seed": e.seed}
    data = StageData(store, pipeline, i, held_out=e.data.held_out, **sizes)
    say(f"{name}: {sum(p.numel() for p in denoiser.parameters()):,} parameters, {len(data.crops)} crops in an epoch")
    if not data.holds_out:
        say("No track is held out: what is called held-out loss is of music that is trained on")
    pipeline.load_stages(model)
    before, start, losses = pipeline.stages[:i], time.monotonic(), []
    for step in progress(range(trainer.step_count, train.steps), name, disable=not main, console=console):
        given = data.step(step, accelerator.process_index, accelerator.num_processes)
        losses.append(trainer.step(given, rank=accelerator.process_index, accelerator=accelerator))
        if main and ((step + 1) % loop.check_every == 0 or step + 1 == train.steps):
            row = trainer.check(data.held_out(), losses, time.monotonic() - start)
            trainer.save(model, row)
            accelerator.log({f"{name}/{key}": value for key, value in row.items()}, step=step + 1)
            say(f"{name} of {train.steps}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
            losses = []
        if main and loop.sample_every and (step + 1) % loop.sample_every == 0 and len(before) == i:
            pipeline.stages = [*before, trainer.averaged()]
            audio = pipeline.generate(e.prompts[:1], seconds=loop.seconds, seed=e.seed, partial=True)
            write_audio(e.output / "on-the-way" / f"{name}-{step + 1:06d}.wav", audio[0], pipeline.sample_rate)
    accelerator.wait_for_everyone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "starter.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    plan.Assumptions.add_options(parser)
    arguments = parser.parse_args()
    e = config.read(Experiment, arguments.config, arguments.overrides)
    model, home = e.output / "model", e.data.store or e.output / "store"
    if not arguments.plan:
        require_writable(e.output)
    pipeline, codec = new_pipeline(e, skeleton=arguments.plan)
    chosen, unused = chosen_stages(pipeline.stage_names, e.stage, e.stages)
    jobs = [new_stage(e, pipeline, i, "meta") for i in chosen]  # what a later stage cannot be is said before the first
    check_starts(e, pipeline, [stage for stage, _, _ in jobs], model)
    if arguments.plan:
        return print(plan.report(pipeline, jobs, e.data, home, e.precision, e.seed, plan.Assumptions.of(arguments)))
    accelerator = new_accelerator(e.output, e.precision)
    pipeline.to(accelerator.device)
    say = console.log if accelerator.is_main_process else lambda *_: None
    for name in unused:
        say(f"Not used: the options of stage '{name}'. This pattern has: {', '.join(pipeline.stage_names)}.")
    quiet = {"console": console, "transient": True, "disable": not accelerator.is_main_process}
    with accelerator.main_process_first():
        store = open_data(e, pipeline, codec, home, model, say)
        prepare_prompts(pipeline, store, e.prompts, track=lambda told: progress(told, "prompts", **quiet), report=say)
    for i in chosen:
        train_stage(e, accelerator, pipeline, store, i, say)
        accelerator.free_memory()  # it keeps what it prepared
    pipeline.load_stages(model)
    if accelerator.is_main_process and len(pipeline.stages) == len(pipeline.stage_names):
        write_model_card(model)
        for number, audio in enumerate(pipeline.generate(e.prompts, seconds=e.seconds, seed=e.seed)):
            write_audio(e.output / "samples" / f"{number:02d}.wav", audio, pipeline.sample_rate)
        say(f'Samples: {e.output / "samples"}. More: codecdiff generate "PROMPT" --model {model} -o out.wav')
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. Run it again to go on from the last check.")
    except (ValueError, LookupError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
