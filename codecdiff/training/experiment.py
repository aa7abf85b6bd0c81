"""From the settings of an experiment to what a recipe trains: the pipeline, its stages, the data and the prompts."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from codecdiff import config, registry
from codecdiff.codecs import NormalizedCodec
from codecdiff.config.schema import DataConfig, ExperimentConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.errors import ConfigError, InvalidValue, line_in
from codecdiff.fingerprint import device_of, module_fingerprint
from codecdiff.interfaces import Prompt
from codecdiff.pipeline.checkpoint import MODEL_FILE, build_parts, check_same_model, load_codec_state, read_config
from codecdiff.pipeline.conditions import with_own_controls
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import Stage
from codecdiff.training.trainer import StageTrainer
from codecdiff.training.warm_start import warm_start_folder

Report = Callable[[str], None]


def new_pipeline(experiment: ExperimentConfig, *, skeleton: bool = False) -> Pipeline:
    """Build the pipeline without its stages. Its codec is a `NormalizedCodec`; a skeleton has parts without weights."""
    codec, splitter, conditioner = build_parts(experiment.model_dump(), skeleton=skeleton)
    codec = NormalizedCodec(codec, per=experiment.normalize_latents)
    options: Any = {"target": experiment.target, "snap_context": experiment.snap_context}
    return Pipeline(codec, splitter, conditioner, [], **options)


def new_stage(
    experiment: ExperimentConfig,
    pipeline: Pipeline,
    i: int,
    device: str = "cpu",
    *,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[Stage, TrainConfig]:
    """Build stage `i` with initial weights that follow from the seed, and return how it is trained.

    `metadata` is stored with the stage, beside the settings of its training.
    """
    name = pipeline.stage_names[i]
    own = experiment.stage_config(name)
    train, sampling = experiment.train.merge(own.train), experiment.sampling.merge(own.sampling)
    diffusion = experiment.diffusion.merge(own.diffusion)
    with torch.device(device):
        denoiser = pipeline.new_denoiser(i, config.merge_spec(experiment.denoiser, own.denoiser), seed=experiment.seed)
    names = pipeline.conditioner.widths if pipeline.conditioner else {}
    if isinstance(train.dropout, Mapping) and (unknown := sorted(train.dropout.keys() - names)):
        available = ", ".join(names) or "none"
        raise ConfigError(f"train.dropout.{unknown[0]}: the model has no such condition. Available: {available}.")
    resolve_guidance(sampling.guidance_scale, pipeline.conditioner)  # refuses names of conditions that the model lacks
    stage = Stage(
        name,
        denoiser,
        training_scheduler(**diffusion.model_dump(exclude={"noise_color"})),
        sampling,
        noise_color=diffusion.noise_color,
        facts=facts_of_training(experiment.seed, experiment.data, train) | dict(metadata or {}),
    )
    return stage, train


def facts_of_training(seed: int, data: DataConfig, train: TrainConfig) -> dict[str, Any]:
    """Return what a stage keeps of how it is trained: the seed, the validation split and the settings."""
    split_seed = seed if data.split_seed is None else data.split_seed
    facts = {"seed": seed, "validation_fraction": data.validation_fraction, "split_seed": split_seed}
    return facts | train.model_dump(exclude={"checkpointing_steps", "validation_steps"})


def open_data(
    experiment: ExperimentConfig, pipeline: Pipeline, store: Path, model: Path, report: Report = lambda line: None
) -> CodeStore:
    """Open the store, encoding the audio if there is none yet, and write the model folder except for its stages.

    The pipeline's codec takes its statistics from the model folder if that exists, and measures them on the store
    otherwise. Raises ValueError if the folder holds another model or the codec does not work, and what `open_store`
    raises.
    """
    from codecdiff.data.encoding.encode import open_store
    from codecdiff.pipeline.vocabulary import training_words
    from codecdiff.testing.codecs import require_working

    codec: Any = pipeline.codec
    if (model / MODEL_FILE).exists():
        check_same_model(model, pipeline.to_config())
    is_measured, target = load_codec_state(model, codec), experiment.target
    spec = config.to_config("codecs", codec.codec)
    has_store, is_ready = (store / "header.json").is_file(), codec.is_fitted
    if is_ready:  # a mistake in it shows here, and not after hours
        require_working(codec.codec, spec["name"], encodes=not has_store)
    codes = open_store(
        store, experiment.data.audio, codec.codec, spec, target=target, seed=experiment.seed, report=report
    )
    if not is_ready:
        require_working(codec.codec, spec["name"], encodes=not has_store)
    if not is_measured:
        codec.measure(codes.latents(codec.codec, target))
    facts = {"hash": rows_hash(codes), "codec_weights": module_fingerprint(codec.codec)}
    pipeline.data = {**codes.summary(), **facts, **training_words(codes.prompts())}
    if (change := music_change(model, pipeline.data)) and not experiment.allow_changes:
        raise InvalidValue(
            f"{model} was trained on other music, captions or splits: {change}. Choose another output=FOLDER, or "
            "resume with --allow-changes: the model card then records the change."
        )
    pipeline.save_parts(model)
    return codes


def rows_hash(store: CodeStore) -> str:
    """Return a hash of the rows of a store, in their order: of what was encoded, and how it is called and split."""
    keys = ("track", "checksum", "offset", "frames", "captions", "metadata", "split")
    digest = hashlib.sha256()
    for row in store.rows:
        digest.update(json.dumps([row.get(key) for key in keys], default=str).encode())
    return digest.hexdigest()[:32]


def music_change(model: Path, data: Mapping[str, Any]) -> str:
    """Return how the music differs from that which a model folder records; empty if it does not."""
    saved = read_config(model)["data"].get("hash") if (model / MODEL_FILE).exists() else None
    now = data.get("hash")
    return "" if None in (saved, now) or saved == now else f"the music is {now:.8}, not {saved:.8} of {MODEL_FILE}"


def prepare_prompts(
    pipeline: Pipeline,
    store: CodeStore,
    prompts: Sequence[Prompt] = (),
    *,
    track: Callable[[Sequence[Prompt]], Iterable[Prompt]] = lambda prompts: prompts,
    report: Report = lambda line: None,
) -> None:
    """Prepare the conditioner for the prompts of the store, and more; a `cached` one then releases its weights.

    `track` iterates over prompts and may show progress. Fields that are read, and that nothing in the store has, are
    reported.
    """
    if pipeline.conditioner is None:
        return
    of_store = [with_own_controls(prompt, pipeline.conditioner) for prompt in store.prompts()]
    available = {name for prompt in of_store for name, value in prompt.items() if value not in (None, "")}
    if absent := sorted(set(pipeline.conditioner.fields) - available):
        hint = "The model does not learn these fields of prompts; to teach them, add them to metadata.jsonl."
        report(f"No track has {', '.join(absent)}. {hint}")
    for prompt in track([*of_store, *prompts]):
        pipeline.conditioner.prepare([prompt])
    pipeline.conditioner.release()


def new_trainer(
    experiment: ExperimentConfig,
    pipeline: Pipeline,
    i: int,
    model: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    report: Report = lambda line: None,
) -> StageTrainer:
    """Return the trainer of stage `i`: resumed from the model folder, or started from the weights it is to start from.

    The stage is built on the CPU, where its initial weights follow from the seed, and moved to the pipeline's device.
    """
    stage, train = new_stage(experiment, pipeline, i, metadata=metadata)
    stage.denoiser.to(device_of(pipeline.codec))
    trainer = StageTrainer(stage, train, seed=experiment.seed, allow_changes=experiment.allow_changes)
    if not trainer.resume(model, report) and (source := warm_start_folder(experiment, pipeline, stage.name, model)):
        report(f"{stage.name} {trainer.start_from(source)}")
    changes = stage.facts.get("changes", [])
    if (change := music_change(model, pipeline.data)) and change not in changes:
        stage.facts["changes"] = [*changes, change]
    return trainer


def call_run_end_hooks(folder: Path) -> None:
    """Call the functions that packages register as `codecdiff.run_end` with the folder of a run that has ended.

    The run is complete by then, so an error in one is a warning.
    """
    for name, hook in registry.entries(registry.RUN_END).items():
        try:
            hook.load()(folder)
        except (Exception, SystemExit) as error:  # code of another package may fail in any way
            place = line_in(hook.entry.module_name, error) or f"{hook.entry.module_name}:{hook.entry.object_name}"
            what = f"'{name}' of {hook.distribution} ({place}) failed: {type(error).__name__}: {error}"
            warnings.warn(f"The run is complete, but its hook {what}.", stacklevel=2)
