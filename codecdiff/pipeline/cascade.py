"""From prompts to codes: the stages of a model are sampled one after another, each given those before it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from codecdiff import rng
from codecdiff.codecs import chunked
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.diffusion.sampling import SamplingInput, StageMask, sample_stage
from codecdiff.errors import InvalidValue, UserError
from codecdiff.interfaces import Condition, Prompt, prompt_fields
from codecdiff.pipeline import conditions
from codecdiff.pipeline.base import BasePipeline
from codecdiff.pipeline.generation import (
    SAMPLING_OPTIONS,
    GenerationConfig,
    GenerationOptions,
    Quality,
    StepCallback,
    replaced_latents,
    usual_preset,
)
from codecdiff.pipeline.stage import Stage, stage_frame_rate, stage_shapes
from codecdiff.pipeline.windows import Window, decode_loop, plan_windows, window_frames

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import EditMask

MAX_LOOKUP = 8192  # frames whose codes are looked up at once
LOOP_CONTEXT = 128  # frames before the beginning and behind the end of a loop, of a codec whose context is unbounded


class GenerationInterrupted(UserError, RuntimeError):
    """A callback, or another thread, has stopped a run."""


class NonFiniteLatents(UserError, FloatingPointError):
    """A stage has generated latents that are infinite or not a number."""


@dataclass(frozen=True)
class _Batch:
    """Samples that are generated at once; `edit` has a row for each, and `masks` is what it keeps of each stage.

    shapes: channels and frames (c, l) of every stage.
    encoded: conditions of the prompts and the negative prompt, by the start of a window in seconds.
    """

    prompts: Sequence[Prompt]
    sample_indices: Sequence[int]
    frames: int
    shapes: Sequence[tuple[int, int]]
    edit: EditMask | None
    masks: Sequence[StageMask | None]
    encoded: dict[float, list[Condition]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)


class CascadePipeline(BasePipeline):
    """A model that generates codes; see `Pipeline`."""

    def frames(self, seconds: float) -> int:
        """Return the number of latent frames that cover this many seconds."""
        if not (1 / self.sample_rate <= seconds <= 3600):  # also refuses NaN
            raise InvalidValue(f"Invalid length of {seconds} s: expected more than 0 and at most 3600.")
        return -(-round(seconds * self.sample_rate) // self.codec.hop_length)

    def interrupt(self) -> None:
        """Stop the run at the end of its current step: it raises GenerationInterrupted."""
        self._interrupt = True

    @torch.no_grad()
    def generate_codes(
        self,
        prompts: Sequence[Prompt],
        frames: int,
        generation_config: GenerationConfig | None = None,
        *,
        edit: EditMask | None = None,
        partial: bool = False,
        callback_on_step_end: StepCallback | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Iterator[Tensor]:
        """Yield the codes (1, k, l) of every sample, the samples of one prompt after each other.

        The lower level of a call: as many latent `frames` as requested, and one sample at a time. A model that reads
        `seconds` and `start` of a prompt gets those of the audio unless the prompt has its own. `edit` has one row for
        every sample: the codes it keeps are returned unchanged, and the others are generated to fit them. A sample
        depends on the seed, its index and its prompt, not on its batch. Raises InvalidValue for invalid options.
        """
        settings = (generation_config or self.generation_config).merge(**options)
        stages = self._checked_stages(settings, prompts, partial)
        batches = self._batches(prompts, frames, settings, edit)
        on_step_end = self._start(batches, stages, settings, callback_on_step_end)
        for batch in batches:
            latents = self.splitter.merge(self._sample_stages(batch, stages, settings, on_step_end))
            with self._on_device(self.codec):
                codes = self._quantize(latents)
            if batch.edit is not None:
                edited = batch.edit.to(codes.device)
                codes = torch.where(edited.keep_mask, edited.codes.to(codes), codes)
            yield from codes.split(1)

    def _checked_stages(self, options: GenerationConfig, prompts: Sequence[Prompt], partial: bool) -> list[Stage]:
        """Return the stages as these options sample them. Raises InvalidValue for what the model cannot generate."""
        if not partial and (missing := self.stage_names[len(self.stages) :]):
            raise InvalidValue(
                f"Stage {missing[0]} is not trained yet, or was removed. Train all its stages, or load the model again."
            )
        stages = self.sampled_stages(options)
        for stage in stages:
            resolve_guidance(stage.sampling.guidance_scale, self.conditioner)
        conditions.check_control_names([*prompts, options.negative_prompt], self.conditioner)
        if not prompts:
            raise InvalidValue("The list of prompts is empty: expected at least one; '' is unconditional.")
        return stages

    def _batches(
        self, prompts: Sequence[Prompt], frames: int, options: GenerationConfig, edit: EditMask | None
    ) -> list[_Batch]:
        """Return the samples of all prompts in batches."""
        rows = [self._with_timing(p, frames) for p in prompts for _ in range(options.num_waveforms_per_prompt)]
        shape = (len(rows), self.codec.num_codebooks, frames)
        if edit is not None and edit.codes.shape != shape:
            raise InvalidValue(f"The codes of the edit have shape {tuple(edit.codes.shape)}, expected {shape}.")
        batches, shapes = [], stage_shapes(self.codec, self.splitter, frames)
        for start in range(0, len(rows), options.batch_size):
            index = list(range(start, min(start + options.batch_size, len(rows))))
            part = None if edit is None else edit.select(index)
            masks = [None] * len(shapes) if part is None else part.stage_masks(self.splitter)
            samples = [options.first_sample_index + i for i in index]
            batches.append(_Batch([rows[i] for i in index], samples, frames, shapes, part, masks))
        return batches

    def _start(
        self,
        batches: Sequence[_Batch],
        stages: Sequence[Stage],
        options: GenerationConfig,
        callback: StepCallback | None,
    ) -> Callable[[Stage, Tensor, Tensor], Tensor]:
        """Count the steps of a run, and return the function to call after each, with the latents it returns."""
        if callback is not None and not callable(callback):
            raise InvalidValue(f"Invalid callback_on_step_end={callback!r}: expected a function.")
        self._interrupt, steps, self.num_timesteps = False, count(), 0
        strength = 1.0 if batches[0].edit is None else batches[0].edit.strength
        for i, stage in enumerate(stages):
            sampled = sum((mask := batch.masks[i]) is None or not mask.keeps_all for batch in batches)
            windows = sampled * len(self._windows(i, batches[0], options))
            self.num_timesteps += windows * stage.num_timesteps(stage.sampling.num_inference_steps, strength)

        def on_step_end(stage: Stage, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback is not None:
                result = callback(self, next(steps), timestep, {"latents": latents, "stage": stage.name})
                latents = replaced_latents(result, latents)
            if self._interrupt:
                raise GenerationInterrupted(f"Generation was interrupted in stage {stage.name}.")
            return latents

        return on_step_end

    def sampled_stages(self, options: GenerationConfig) -> list[Stage]:
        """Return the stages as these options sample them: their own sampling, changed by the preset, then the options.

        Raises InvalidValue for options that a stage cannot be sampled with.
        """
        overrides = {name: value for name in SAMPLING_OPTIONS if (value := getattr(options, name)) is not None}
        return [stage.with_sampling(**{**self._preset(stage, options.quality), **overrides}) for stage in self.stages]

    def _preset(self, stage: Stage, quality: Quality | None) -> dict[str, Any]:
        if quality is None:
            return {}
        own = self.presets.get(quality, {}).get(stage.name)
        if own is not None:
            return own.model_dump(exclude_unset=True)
        return {} if stage.distilled else usual_preset(quality, stage.sampling, stage.train_scheduler)

    def _with_timing(self, prompt: Prompt, frames: int) -> Prompt:
        """Add the duration of the audio, and its start 0, to a prompt where the model reads them."""
        fields = self.conditioner.fields if self.conditioner else ()
        timing = {"seconds": frames / self.codec.frame_rate, "start": 0.0}
        return {**{name: timing[name] for name in timing if name in fields}, **prompt_fields(prompt)}

    def _windows(self, i: int, batch: _Batch, options: GenerationConfig) -> list[Window]:
        """Return the windows that stage `i` is sampled in: one, unless the music is long, or a loop.

        Those whose new frames an edit keeps are left out. Raises InvalidValue for a loop of a pattern with delays.
        """
        length, edit = batch.shapes[i][1], batch.masks[i]
        seconds = batch.frames / self.codec.frame_rate
        if options.loop and length % batch.frames and batch.frames % length:
            raise InvalidValue(
                "A loop needs stages whose ends meet, and this model's pattern delays codebooks: leave out loop, or "
                "use a model with another pattern."
            )
        size = window_frames(seconds, length / seconds, options.window_in_s)
        windows = plan_windows(length, size, loop=options.loop)
        if edit is None:
            return windows
        return [window for window in windows if not edit.keep_mask[..., window.frames[window.is_new]].all()]

    def _sample_stages(
        self,
        batch: _Batch,
        stages: Sequence[Stage],
        options: GenerationConfig,
        on_step_end: Callable[[Stage, Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        """Sample the latents (b, c, l) of every stage, each with the stages before it as its context."""
        sampled: list[Tensor] = []
        for i, stage in enumerate(stages):
            if (mask := batch.masks[i]) is not None and mask.keeps_all:
                sampled.append(mask.x_start.to(self.device))
                continue
            context = self._context(sampled, batch)
            latents = self._sample_stage(i, stage, batch, options, context, functools.partial(on_step_end, stage))
            if not latents.isfinite().all():
                raise NonFiniteLatents(
                    f"Stage {stage.name} generated latents that are not finite, in "
                    f"{stage.sampling.num_inference_steps} steps of {stage.sampling.scheduler}: nothing was written. "
                    "Try more steps, a smaller guidance_scale or float32; if it stays, the weights have diverged."
                )
            sampled.append(latents)
        return self._with_zeros(sampled, batch)

    def _sample_stage(
        self,
        i: int,
        stage: Stage,
        batch: _Batch,
        options: GenerationConfig,
        context: Tensor | None,
        on_step_end: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Sample the latents (b, c, l) of stage `i`, window by window."""
        generators = [rng.generator("codecdiff.generate.noise", options.seed, n, i) for n in batch.sample_indices]
        noise = rng.row_noise(batch.shapes[i], generators, self.device)
        edit = None if (mask := batch.masks[i]) is None else mask.to(self.device)
        result = torch.zeros_like(noise) if edit is None else edit.x_start.to(noise).clone()
        for window in self._windows(i, batch, options):
            frames = window.frames
            condition, negative_condition = self._conditions(batch, options, i, frames)
            inputs = SamplingInput(
                noise=noise[..., frames],
                generators=generators,
                context=None if context is None else context[..., frames],
                condition=condition,
                negative_condition=negative_condition,
                mask=window.mask(result, edit),
            )
            with self._on_device(stage.denoiser), self._execution.active():
                result[..., frames] = sample_stage(
                    stage.denoiser.eval(),
                    stage.scheduler,
                    inputs,
                    num_inference_steps=stage.sampling.num_inference_steps,
                    guidance_scale=resolve_guidance(stage.sampling.guidance_scale, self.conditioner),
                    sampling=stage.sampling,
                    noise_color=stage.noise_color,
                    on_step_end=on_step_end,
                )
        return result

    def _conditions(self, batch: _Batch, options: GenerationConfig, i: int, frames: Tensor) -> list[Condition]:
        """Return the conditions of the prompts and of the negative prompt for these frames of stage `i`.

        A conditioner that reads `start`, such as the tempo's, continues what it said in the window before.
        """
        conditioner, length = self.conditioner, batch.shapes[i][1]
        start = batch.frames / self.codec.frame_rate / length * float(frames[0])
        start = start if conditioner and "start" in conditioner.fields else 0.0
        prompts = [prompt_fields(prompt) for prompt in batch.prompts]
        negative = [prompt_fields(options.negative_prompt)] * len(prompts)
        if start not in batch.encoded:
            moved = [{**fields, "start": start + conditions.music_start(fields)} for fields in prompts]
            with self._on_device(conditioner):
                texts = moved if start else prompts, negative
                batch.encoded[start] = [conditions.encode_prompts(conditioner, each, self.device) for each in texts]
        if conditioner is None or not (controls := conditioner.control_rates):
            return batch.encoded[start]
        rate, of_frames = stage_frame_rate(self.codec, self.splitter, i), []
        for condition, texts in zip(batch.encoded[start], (prompts, negative), strict=True):
            conditions.require_long_controls(condition, conditioner, texts, batch.frames, self.codec.frame_rate)
            aligned = conditions.align_controls(condition, conditioner, texts, length, rate)
            of_frames.append(aligned.map(lambda n, e: (e.tokens[:, frames], e.mask[:, frames]) if n in controls else e))
        return of_frames

    def _context(self, stages: Sequence[Tensor], batch: _Batch) -> Tensor | None:
        """Return what the next stage sees of those sampled so far, (b, c', l) or None."""
        padded = self._with_zeros(stages, batch)
        if self.snap_context and stages:
            with self._on_device(self.codec):
                snapped = self.codec.embed(self._quantize(self.splitter.merge(padded)))
            padded[: len(stages)] = self.splitter.split(snapped)[: len(stages)]
        return self.splitter.context(padded, len(stages))

    def _with_zeros(self, stages: Sequence[Tensor], batch: _Batch) -> list[Tensor]:
        """Append zeros, the mean of the latents, for the stages that are not sampled."""
        shapes = batch.shapes[len(stages) :]
        return [*stages, *(torch.zeros(len(batch.prompts), *shape, device=self.device) for shape in shapes)]

    def _quantize(self, latents: Tensor) -> Tensor:
        """Look the codes (b, k, l) of latents (b, k, d, l) up, some frames at a time: each takes a whole codebook."""
        return torch.cat([self.codec.quantize(part) for part in latents.split(MAX_LOOKUP, -1)], dim=-1)

    def decode(
        self, codes: Sequence[Tensor] | Iterator[Tensor], samples: int | None = None, *, loop: bool = False
    ) -> Tensor:
        """Decode codes (1, k, l) one by one to audio (n, ch, t) on the CPU, cut to `samples`.

        The end of a loop is decoded as what comes before its beginning; it is as long as its frames.
        """
        codec, context, hop_length = chunked(self.codec), self.codec.decode_context_frames, self.codec.hop_length
        context = LOOP_CONTEXT if context is None else context + -context % codec.chunk_multiple

        def decode_one(code: Tensor) -> Tensor:
            return decode_loop(codec.decode, code, context, hop_length) if loop else codec.decode(code)[..., :samples]

        with self._on_device(self.codec):
            return torch.cat([decode_one(code.to(self.device)).float().cpu() for code in codes])
