"""Train a codec diffusion model, stage by stage.

    accelerate launch recipes/discodiff.py [--config FILE] [key=value ...]

It encodes the audio (or reuses the store), measures the latents, trains every stage of the pattern, samples and
reports. Run it again to go on where it stopped. Defaults: configs/starter.yaml; the paper's model: configs/paper.yaml.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available
from pydantic import Field, PositiveFloat
from rich.console import Console
from rich.progress import track as progress

from codecdiff import config
from codecdiff.cards import write_card
from codecdiff.codecs import Standardized
from codecdiff.data.audio import write_audio
from codecdiff.data.store import CodeStore, open_store
from codecdiff.diffusion import training_scheduler
from codecdiff.pipeline import Pipeline, Stage, build_parts, load_codec_state
from codecdiff.settings import Data, Diffusion, Loop, Optimization, Sampling, Settings, StageOptions
from codecdiff.training import StageData, StageTrainer


class Experiment(Settings):
    output: Path = Path("runs/discodiff")
    stage: str = "all"  # or the name of one stage, to train it alone
    seed: int = 0
    codec: config.CodecSpec
    standardize: Literal["codebook", "channel"] = "codebook"
    splitter: config.SplitterSpec
    conditioner: config.ConditionerSpec | None = None  # null trains without text
    denoiser: config.DenoiserSpec
    snap_context: bool = True  # a stage sees the codebook entries of the one before, not its raw samples
    data: Data = Data()
    precision: Literal["no", "bf16"] = "no"
    train: Optimization = Optimization()
    loop: Loop = Loop()
    diffusion: Diffusion = Diffusion()
    sampling: Sampling = Sampling()
    stages: dict[str, StageOptions] = Field(default_factory=dict)
    prompts: list[str] = Field(default=[""])
    seconds: PositiveFloat = 10.0  # of each sample


def train_stage(e: Experiment, accelerator: Accelerator, pipeline: Pipeline, store: CodeStore, i: int, say) -> None:
    name, model, main = pipeline.stage_names[i], e.output / "model", accelerator.is_main_process
    own = e.stages.get(name, StageOptions())
    train, loop, sampling = e.train.over(own.train), e.loop.over(own.loop), e.sampling.over(own.sampling)
    denoiser = pipeline.new_denoiser(i, config.over(e.denoiser, own.denoiser), seed=e.seed).to(accelerator.device)
    facts = {"seed": e.seed, **train.model_dump(), "batch_size": loop.batch_size, "seconds": loop.seconds}
    scheduler = training_scheduler(**e.diffusion.model_dump())
    stage = Stage(name, denoiser, scheduler, **sampling.model_dump(), facts=facts)
    trainer = StageTrainer(stage, seed=e.seed, **train.model_dump())
    if trainer.resume(model):
        say(f"{name}: going on from step {trainer.step_count}")
        if main and trainer.step_count >= train.steps:  # nothing to train; how it is sampled may have changed
            trainer.save(model)
    trainer.network, trainer.optimizer = accelerator.prepare(denoiser, trainer.optimizer)
    sizes = {"seconds": loop.seconds, "batch_size": loop.batch_size, "held_out": e.data.held_out}
    data = StageData(store, pipeline, i, seed=e.seed, **sizes)
    say(f"{name}: {sum(p.numel() for p in denoiser.parameters()):,} parameters, {len(data.crops)} crops in an epoch")
    pipeline.load_stages(model)
    before, start, losses = pipeline.stages[:i], time.monotonic(), []
    for step in progress(range(trainer.step_count, train.steps), name, disable=not main):
        given = data.step(step, accelerator.process_index, accelerator.num_processes)
        losses.append(trainer.step(given, rank=accelerator.process_index, accelerator=accelerator))
        if main and ((step + 1) % loop.check_every == 0 or step + 1 == train.steps):
            held_out, zero = trainer.held_out(data.held_out())
            row = {"loss": sum(losses) / len(losses), "held_out": held_out, "held_out_baseline": zero}
            trainer.save(model, {"step": step + 1, **row, "seconds": time.monotonic() - start})
            accelerator.log({f"{name}/{key}": value for key, value in row.items()}, step=step + 1)
            ratio = f"held-out {held_out:.4f}, {held_out / zero:.3f} of the constant answer's"
            say(f"{name} {step + 1}/{train.steps}: loss {row['loss']:.4f}, {ratio}")
            losses = []
        if main and loop.sample_every and (step + 1) % loop.sample_every == 0 and len(before) == i:
            pipeline.stages = [*before, trainer.averaged()]
            audio = pipeline.generate(e.prompts[:1], seconds=loop.seconds, seed=e.seed, partial=True)
            write_audio(e.output / "on-the-way" / f"{name}-{step + 1:06d}.wav", audio[0], pipeline.sample_rate)
    accelerator.wait_for_everyone()


def report(e: Experiment, pipeline: Pipeline, say) -> None:
    write_card(e.output / "model")
    start = time.monotonic()
    for number, audio in enumerate(pipeline.generate(e.prompts, seconds=e.seconds, seed=e.seed)):
        write_audio(e.output / "samples" / f"{number:02d}.wav", audio, pipeline.sample_rate)
    seconds = e.seconds * len(e.prompts)
    say(f"{seconds:.0f} s of music in {e.output / 'samples'}, made in {time.monotonic() - start:.0f} s")
    say(f'Make more: codecdiff generate "PROMPT" --model {e.output / "model"} -o out.wav')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "starter.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    e = config.read(Experiment, arguments.config, arguments.overrides)
    model = e.output / "model"
    tracker = "tensorboard" if is_tensorboard_available() else None
    cpu = not torch.accelerator.is_available()  # said outright, or every process of several takes itself for the first
    accelerator = Accelerator(cpu=cpu, mixed_precision=e.precision, log_with=tracker, project_dir=e.output)
    accelerator.init_trackers("log")
    console = Console(stderr=True, log_path=False, width=None if sys.stderr.isatty() else 160)
    say = console.log if accelerator.is_main_process else lambda *_: None
    codec, splitter, conditioner = build_parts(e.model_dump(include={"codec", "splitter", "conditioner"}))
    standardized = Standardized(codec, per=e.standardize)
    pipeline = Pipeline(standardized, splitter, conditioner, [], snap_context=e.snap_context)
    if unknown := {*e.stages, *([] if e.stage == "all" else [e.stage])} - set(pipeline.stage_names):
        raise config.ConfigError(f"No stage '{unknown.pop()}'. This pattern has: {', '.join(pipeline.stage_names)}.")
    with accelerator.main_process_first():
        known = load_codec_state(model, standardized)
        spec = config.spec_of("codecs", codec)
        told = {"report": say, "progress": lambda count: None if count % 100 else say(f"{count} tracks encoded")}
        store = open_store(e.data.store or e.output / "store", e.data.audio, codec, spec, seed=e.seed, **told)
        if not known:
            standardized.measure(store.latents(codec))
        pipeline.data = store.facts()
        pipeline.save_parts(model)
    pipeline.to(accelerator.device)
    for i, name in enumerate(pipeline.stage_names):
        if e.stage in ("all", name):
            train_stage(e, accelerator, pipeline, store, i, say)
    pipeline.load_stages(model)
    if accelerator.is_main_process and len(pipeline.stages) == len(pipeline.stage_names):
        report(e, pipeline, say)
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, LookupError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
