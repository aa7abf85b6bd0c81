"""Inputs of a training step: crops, their context and their condition, as functions of sample indices."""

from __future__ import annotations

from collections.abc import Sequence

from codecdiff.config.schema import DataConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import CropBatch, TrainingCrops, split_tracks
from codecdiff.diffusion.loss import StageInput
from codecdiff.fingerprint import device_of
from codecdiff.pipeline.conditions import align_controls, encode_prompts, with_own_controls
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import stage_frame_rate

VALIDATION_BATCH_SIZE = 16


def stage_input(batch: CropBatch, pipeline: Pipeline, i: int) -> StageInput:
    """Turn a batch into the input of stage `i`: embed, split, take the context, encode the prompts.

    Padding is zeros, the mean of the latents. Controls are those of the tracks themselves, cut to the crops.
    """
    splitter, device = pipeline.splitter, device_of(pipeline.codec)
    valid = batch.valid_mask.to(device)[:, None, None]
    vectors = pipeline.codec.embed(batch.codes.to(device).long()) * valid
    continuous = batch.continuous
    target = vectors if continuous is None else pipeline.codec.normalize(continuous.to(device)) * valid
    stages, masks = splitter.split(target), splitter.split(valid.expand_as(target))
    context = splitter.context(splitter.split(vectors) if pipeline.snap_context else stages, i)
    prompts = [with_own_controls(prompt, pipeline.conditioner) for prompt in batch.prompts]
    rate = stage_frame_rate(pipeline.codec, splitter, i)
    condition = encode_prompts(pipeline.conditioner, prompts, device)
    condition = align_controls(condition, pipeline.conditioner, prompts, stages[i].shape[-1], rate)
    return StageInput(batch.sample_indices, stages[i], masks[i], context, condition)


class StageData:
    """Training and validation inputs of one stage. Crops follow from (seed, sample index), not from processes."""

    def __init__(
        self,
        store: CodeStore,
        pipeline: Pipeline,
        i: int,
        train: TrainConfig,
        data: DataConfig,
        *,
        seed: int = 0,
        num_validation_crops: int = 64,
    ):
        self.pipeline, self.i, self.batch_size = pipeline, i, train.train_batch_size
        frames = round(train.crop_seconds * pipeline.codec.frame_rate)
        split_seed = seed if data.split_seed is None else data.split_seed
        training, validation = split_tracks(store, data.validation_fraction, split_seed)
        self.has_validation_tracks = bool(validation)  # otherwise validation is on tracks that are trained on
        self.crops = TrainingCrops(store, training, frames, target=pipeline.target, seed=seed)
        self.validation_crops = TrainingCrops(
            store, validation or training, frames, target=pipeline.target, seed=seed, subset="validation"
        )
        starts = range(0, num_validation_crops, VALIDATION_BATCH_SIZE)
        self.validation_indices = [range(start, start + VALIDATION_BATCH_SIZE) for start in starts]

    def step(self, step: int, rank: int = 0, world: int = 1) -> StageInput:
        """Return the input of one process at a step."""
        return self._input(self.crops, self.crops.sample_indices(step, self.batch_size, rank, world))

    def validation(self) -> list[StageInput]:
        """Return the validation inputs, the same at every call."""
        return [self._input(self.validation_crops, indices) for indices in self.validation_indices]

    def _input(self, crops: TrainingCrops, sample_indices: Sequence[int]) -> StageInput:
        return stage_input(crops.batch(sample_indices), self.pipeline, self.i)
