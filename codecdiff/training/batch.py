"""What a training step of a stage takes: crops, their context and their condition, as functions of sample numbers."""

from __future__ import annotations

from collections.abc import Sequence

from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import Batch, Crops, split_tracks
from codecdiff.diffusion.loss import StageInput
from codecdiff.fingerprint import device_of
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import conditions

CHECKED = 16  # held-out crops at once


def stage_input(batch: Batch, pipeline: Pipeline, i: int) -> StageInput:
    """Turn a batch into the input of stage `i`: embed, split, take the context, encode the prompts.

    Padding is zeros, the mean of the latents.
    """
    splitter, device = pipeline.splitter, device_of(pipeline.codec)
    real = batch.real.to(device)[:, None, None]
    entries = pipeline.codec.embed(batch.codes.to(device)) * real
    target = entries if batch.projections is None else pipeline.normalize(batch.projections.to(device)) * real
    stages, mask = splitter.split(target), splitter.split(real.expand_as(target))
    context = splitter.context(splitter.split(entries) if pipeline.snap_context else stages, i)
    condition = conditions(pipeline.conditioner, batch.prompts, device)
    return StageInput(batch.numbers, stages[i], mask[i], context, condition)


class StageData:
    """The inputs of one stage: a batch for every step and rank, and the held-out inputs."""

    def __init__(
        self,
        store: CodeStore,
        pipeline: Pipeline,
        i: int,
        *,
        seconds: float,
        batch_size: int,
        held_out: float = 0.1,
        checks: int = 64,
        seed: int = 0,
        split_seed: int | None = None,
    ):
        """Divide the tracks by `split_seed`, `seed` unless given, and draw crops by `seed`."""
        self.pipeline, self.i, self.batch_size = pipeline, i, batch_size
        frames = round(seconds * pipeline.codec.frame_rate)
        training, held = split_tracks(store, held_out, seed if split_seed is None else split_seed)
        self.holds_out = bool(held)  # else the held-out inputs are of tracks that are trained on
        self.crops = Crops(store, training, frames, target=pipeline.target, seed=seed)
        self.held_crops = Crops(store, held or training, frames, target=pipeline.target, seed=seed)
        self.held_numbers = [range(start, start + CHECKED) for start in range(0, checks, CHECKED)]

    def step(self, step: int, rank: int = 0, world: int = 1) -> StageInput:
        """Give what one rank trains on at a step."""
        return self._input(self.crops, self.crops.numbers(step, self.batch_size, rank, world))

    def held_out(self) -> list[StageInput]:
        """Give the held-out inputs, the same at every call."""
        return [self._input(self.held_crops, numbers) for numbers in self.held_numbers]

    def _input(self, crops: Crops, numbers: Sequence[int]) -> StageInput:
        return stage_input(crops.batch(numbers), self.pipeline, self.i)
