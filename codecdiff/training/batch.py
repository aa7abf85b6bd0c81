"""Inputs of a training step: crops, their context and their condition, as functions of sample indices."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

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
    """Training and validation inputs of one stage. Crops follow from (seed, sample index), not from processes.

    A thread reads the batch of the next step during a step. One is enough: a batch is a few contiguous reads of a
    memory-mapped file.
    """

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
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="codecdiff-batches")
        self._ahead: dict[tuple[int, int, int], Future[CropBatch]] = {}  # by step, rank and number of processes
        starts = range(0, num_validation_crops, VALIDATION_BATCH_SIZE)
        self.validation_indices = [range(start, start + VALIDATION_BATCH_SIZE) for start in starts]

    def step(self, step: int, rank: int = 0, world: int = 1) -> StageInput:
        """Return the input of one process at a step, and begin to read the batch of its next step."""
        batch = self._ahead.pop((step, rank, world), None) or self._read(step, rank, world)
        self._ahead = {(step + 1, rank, world): self._read(step + 1, rank, world)}
        return stage_input(batch.result(), self.pipeline, self.i)

    def _read(self, step: int, rank: int, world: int) -> Future[CropBatch]:
        return self._reader.submit(self.crops.batch, self.crops.sample_indices(step, self.batch_size, rank, world))

    def validation(self) -> list[StageInput]:
        """Return the validation inputs, the same at every call."""
        batches = (self.validation_crops.batch(indices) for indices in self.validation_indices)
        return [stage_input(batch, self.pipeline, self.i) for batch in batches]
