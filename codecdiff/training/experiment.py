"""What a model is and how it is trained, in one set of settings, and the untrained model that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from codecdiff import config
from codecdiff.codecs import NormalizedCodec
from codecdiff.config.schema import (
    ExperimentConfig,
    Loop,
    Optimization,
    StageOptions,
)
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import open_store
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.interfaces import Prompt
from codecdiff.pipeline.checkpoint import build_parts, load_codec_state
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import Stage
from codecdiff.pipeline.warm_start import require_same_denoiser


def new_pipeline(experiment: ExperimentConfig, *, skeleton: bool = False) -> tuple[Pipeline, NormalizedCodec]:
    """Make the model without its stages, and give its codec too; skeleton, its parts have no weights."""
    codec, splitter, conditioner = build_parts(experiment.model_dump(), skeleton=skeleton)
    standardized = NormalizedCodec(codec, per=experiment.standardize)
    options: Any = {"target": experiment.target, "snap_context": experiment.snap_context}
    return Pipeline(standardized, splitter, conditioner, [], **options), standardized


def new_stage(
    experiment: ExperimentConfig,
    pipeline: Pipeline,
    i: int,
    device: str = "cpu",
    *,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Stage, Optimization, Loop]:
    """Make stage `i` untrained, with weights that follow from the seed, and give how it is trained.

    `facts` are kept with the stage, beside those of its training.
    """
    name = pipeline.stage_names[i]
    own = experiment.stages.get(name, StageOptions())
    train, loop = experiment.train.over(own.train), experiment.loop.over(own.loop)
    process = experiment.diffusion.over(own.diffusion)
    scheduler = training_scheduler(
        num_train_timesteps=process.steps,
        beta_schedule=process.schedule,
        prediction_type=process.prediction,
        zero_terminal_snr=process.zero_terminal_snr,
    )
    sampling = experiment.sampling.over(own.sampling)
    with torch.device(device):
        denoiser = pipeline.new_denoiser(i, config.over(experiment.denoiser, own.denoiser), seed=experiment.seed)
    sizes = {"batch_size": loop.batch_size, "seconds": loop.seconds}
    told = {"seed": experiment.seed, **train.model_dump(), **sizes, **(facts or {})}
    resolve_guidance(sampling.guidance, pipeline.conditioner)  # names it does not have are refused
    stage = Stage(
        name,
        denoiser,
        scheduler,
        sampling.sampler,
        sampling.steps,
        sampling.guidance,
        timestep_spacing=sampling.spacing,
        final_timestep_fraction=sampling.stop_at,
        noise_color=process.noise_color,
        facts=told,
    )
    return stage, train, loop


def start_of(experiment: ExperimentConfig, pipeline: Pipeline, name: str, model: Path) -> Path | None:
    """Give the folder of the stage whose weights the stage called `name` is to begin with; None for its own.

    `model` is the folder of the model that is trained. Raises ValueError for a stage that is to start from itself.
    """
    asked = experiment.stages.get(name, StageOptions()).start_from
    if asked == name:
        raise ValueError(
            f"stages.{name}.start_from={asked}: a stage cannot start from itself. Name another, or a folder."
        )
    return None if asked is None else model / asked if asked in pipeline.stage_names else Path(asked)


def check_starts(experiment: ExperimentConfig, pipeline: Pipeline, stages: Sequence[Stage], model: Path) -> None:
    """Check, before the first is trained, that `stages` can start from what they are to start from, in this order.

    Those in training already go on from where they are. Raises ValueError or FileNotFoundError.
    """
    before: dict[Path, Stage] = {}
    for stage in stages:
        folder = start_of(experiment, pipeline, stage.name, model)
        if folder is not None and not (model / stage.name / "stage.json").exists():
            source = before.get(folder)
            if source is None:
                require_same_denoiser(stage.denoiser, folder)
            elif type(source.denoiser) is not type(stage.denoiser):
                raise ValueError(f"{stage.name} cannot start from {source.name}: their denoisers are of other kinds.")
        before[model / stage.name] = stage


def open_data(
    experiment: ExperimentConfig,
    pipeline: Pipeline,
    codec: NormalizedCodec,
    store: Path,
    model: Path,
    report: Callable[[str], None] = lambda line: None,
) -> CodeStore:
    """Open the store, or make it from the audio, and begin the model folder: all of it but the stages.

    The codec is the pipeline's. It takes its statistics from the model folder if that is there, and measures them on
    the store if not. Raises ValueError if the folder holds another model, and what `open_store` raises.
    """
    known, target = load_codec_state(model, codec), experiment.target
    spec = config.to_config("codecs", codec.codec)
    found = open_store(
        store, experiment.data.audio, codec.codec, spec, target=target, seed=experiment.seed, report=report
    )
    if not known:
        codec.measure(found.latents(codec.codec, target))
    pipeline.data = found.facts()
    pipeline.save_parts(model)
    return found


def prepare_prompts(
    pipeline: Pipeline,
    store: CodeStore,
    prompts: Sequence[Prompt] = (),
    *,
    track: Callable[[Sequence[Prompt]], Iterable[Prompt]] = lambda prompts: prompts,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Tell the conditioner of the prompts of the store, and of more; a `cached` one keeps them and lets its weights go.

    `track` passes prompts on and may show how far it is. Fields that are read, and nothing in the store has, are
    reported.
    """
    if pipeline.conditioner is None:
        return
    of_store = store.prompts()
    there = {name for prompt in of_store for name, value in prompt.items() if value not in (None, "")}
    for name in sorted(set(pipeline.conditioner.fields) - there):
        report(f"The conditioner reads '{name}', and nothing in the store has it: it will always be absent.")
    for prompt in track([*of_store, *prompts]):
        pipeline.conditioner.prepare([prompt])
    pipeline.conditioner.release()
