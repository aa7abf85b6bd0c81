"""A trained model: from prompts to audio."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from codecdiff import rng
from codecdiff.codecs import chunked
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.diffusion.sampling import SamplingInput, StageMask, sample_stage
from codecdiff.errors import InvalidValue, UserError
from codecdiff.interfaces import Condition, Prompt, prompt_fields
from codecdiff.pipeline.base import BasePipeline
from codecdiff.pipeline.generation import GenerationConfig, GenerationOptions, Quality, prompt_list, usual_preset
from codecdiff.pipeline.stage import Stage, conditions, stage_shapes
from codecdiff.pipeline.windows import Window, decode_loop, plan_windows, window_frames

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit, EditMask
    from codecdiff.pipeline.output import PipelineOutput

MAX_LOOKUP = 8192  # frames whose codes are looked up at once
LOOP_CONTEXT = 128  # frames before the beginning and behind the end of a loop, of a codec whose context is unbounded

# (pipeline, step, timestep, {"latents": ..., "stage": ...}) -> what replaces the latents, or None
StepCallback = Callable[["Pipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]


class GenerationInterrupted(UserError, RuntimeError):
    """A callback, or another thread, has stopped a run."""


class NonFiniteLatents(UserError, FloatingPointError):
    """A stage has generated latents that are infinite or not a number."""


@dataclass(frozen=True)
class _Batch:
    """Samples that are generated at once; `edit` has a row for each, and `masks` is what it keeps of each stage.

    encoded: conditions of the prompts and the negative prompt, by the start of a window in seconds.
    """

    prompts: Sequence[Prompt]
    sample_indices: Sequence[int]
    frames: int
    edit: EditMask | None
    masks: Sequence[StageMask | None]
    encoded: dict[float, tuple[Condition, Condition]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def generators(self, seed: int, i: int) -> list[torch.Generator]:
        """Return the generator of the noise of every sample in stage `i`."""
        return [rng.generator("codecdiff.generate.noise", seed, index, i) for index in self.sample_indices]

    def is_sampled(self, i: int) -> bool:
        """Return whether anything is left to generate of stage `i`."""
        mask = self.masks[i]
        return mask is None or not mask.keeps_all


class Pipeline(BasePipeline):
    """A trained model, in the style of diffusers.

    codec, splitter, conditioner: parts; stages: one denoiser each, coarse first, with its schedulers.
    target: what is diffused: codebook vectors, or the continuous latents before quantization.
    snap_context: a stage sees the codebook vectors of the stages before it, else their latents as sampled.
    data: facts about the training data.
    generation_config: options of a call that does not say otherwise.

    Example:
        >>> from codecdiff import Pipeline
        >>> pipe = Pipeline.from_pretrained("starter")
        >>> out = pipe("a slow waltz on piano", audio_length_in_s=2, num_inference_steps=4, seed=0)
        >>> out.audios.shape, out.sampling_rate
        (torch.Size([1, 1, 88200]), 44100)
        >>> files = out.save("waltz.wav")

    """

    def frames(self, seconds: float) -> int:
        """Return the number of latent frames that cover this many seconds."""
        if not (1 / self.sample_rate <= seconds <= 3600):  # also refuses NaN
            raise InvalidValue(f"Invalid length of {seconds} s: expected more than 0 and at most 3600.")
        return -(-round(seconds * self.sample_rate) // self.codec.hop_length)

    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] = "",
        generation_config: GenerationConfig | None = None,
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepCallback | None = None,
        partial: bool = False,
        **options: Unpack[GenerationOptions],
    ) -> PipelineOutput:
        """Generate audio from prompts.

        Args:
            prompt: A text, a mapping of fields such as `{"text": "a waltz", "tempo": 90}`, or a list of these. Empty:
                unconditional.
            generation_config: Options in place of the model's own, which `options` override.
            generator: Draws the seed, in place of `seed`.
            callback_on_step_end: Called as `callback(pipe, step, timestep, {"latents": ..., "stage": ...})` after every
                step. `step` counts over all stages and batches, to `pipe.num_timesteps`. What it returns as "latents"
                replaces them. `pipe.interrupt()` in it stops the run.
            partial: Leave stages that are not trained yet at the mean of their latents, which is an error otherwise.
            **options: `audio_length_in_s`, `num_inference_steps`, `guidance_scale`, `negative_prompt`,
                `num_waveforms_per_prompt`, `seed` and the other fields of `GenerationConfig`. None: as configured.

        Raises:
            UserError: The options or prompts cannot be used with this model.
            GenerationInterrupted: The run was stopped.

        Example:
            >>> import codecdiff
            >>> pipe = codecdiff.load("starter")
            >>> prompts = ["strings, loud", {"text": "a flute"}]
            >>> out = pipe(prompts, audio_length_in_s=1, num_inference_steps=2, guidance_scale=3.0, seed=1)
            >>> out
            PipelineOutput(audios=(2, 1, 44100), codes=(2, 9, 87), sampling_rate=44100)

        """
        settings = self._options(generation_config, generator, options)
        prompts, seconds = prompt_list(prompt), settings.audio_length_in_s
        frames, samples = self.frames(seconds), round(seconds * self.sample_rate)
        codes = self.generate_codes(
            prompts, frames, settings, partial=partial, callback_on_step_end=callback_on_step_end
        )
        return self._output(prompts, codes, samples, settings)

    def edit(
        self,
        audio: Tensor | Path | str,
        edit: Edit,
        prompt: Prompt = "",
        generation_config: GenerationConfig | None = None,
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepCallback | None = None,
        **options: Unpack[GenerationOptions],
    ) -> PipelineOutput:
        """Generate a part of existing audio again: a file, or (ch, t) at the model's sample rate.

        `edit` says which part: `Refine`, `Inpaint`, `Extend`, `Vary` or `Restore`. The codes it keeps stay as they are.
        The other arguments are those of a call.

        Example:
            >>> import codecdiff
            >>> pipe = codecdiff.load("starter")
            >>> song = pipe("a slow waltz", audio_length_in_s=1, num_inference_steps=2)
            >>> pipe.edit(song.audios[0], codecdiff.Inpaint(regions=[(0.5, 0.8)]), "a flute", num_inference_steps=2)
            PipelineOutput(audios=(1, 1, 44100), codes=(1, 9, 87), sampling_rate=44100)

        """
        if options.get("loop"):
            raise InvalidValue("An edit keeps the ends of its source, so it makes no loop: leave out loop.")
        settings = self._options(generation_config, generator, options).merge(loop=False)
        with self._on_device(self.codec):
            mask, samples = edit.apply_to_audio(audio, self.codec, self.target)
        mask = mask.repeat(settings.num_waveforms_per_prompt)
        codes = self.generate_codes(
            [prompt], mask.frames, settings, edit=mask, callback_on_step_end=callback_on_step_end
        )
        return self._output([prompt], codes, samples, settings, edit=edit, source=audio)

    def interrupt(self) -> None:
        """Stop the run at the end of its current step: it raises GenerationInterrupted."""
        self._interrupt = True

    def _options(
        self, generation_config: GenerationConfig | None, generator: torch.Generator | None, options: GenerationOptions
    ) -> GenerationConfig:
        merged = (generation_config or self.generation_config).merge(**options)
        if generator is None:
            return merged
        if not isinstance(generator, torch.Generator):
            raise InvalidValue(
                f"Invalid generator of type {type(generator).__name__}: expected one torch.Generator, as in "
                "torch.Generator().manual_seed(0)."
            )
        if options.get("seed") is not None:
            raise InvalidValue("Both seed and generator say what to draw: leave one out.")
        return merged.merge(seed=int(torch.randint(2**62, (), generator=generator, device=generator.device)))

    def _output(
        self, prompts: Sequence[Prompt], codes: Iterator[Tensor], samples: int, options: GenerationConfig, **edit: Any
    ) -> PipelineOutput:
        from codecdiff.pipeline.output import PipelineOutput

        return PipelineOutput.generate(self, prompts, codes, samples, options, **edit)

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
        self._check(settings, prompts, partial)
        batches = self._batches(prompts, frames, settings, edit)
        on_step_end = self._start(batches, settings, callback_on_step_end)
        for batch in batches:
            latents = self.splitter.merge(self._sample_stages(batch, settings, on_step_end))
            with self._on_device(self.codec):
                codes = self._quantize(latents)
            if batch.edit is not None:
                edited = batch.edit.to(codes.device)
                codes = torch.where(edited.keep_mask, edited.codes.to(codes), codes)
            yield from codes.split(1)

    def _check(self, options: GenerationConfig, prompts: Sequence[Prompt], partial: bool) -> None:
        if not partial and (missing := self.stage_names[len(self.stages) :]):
            raise InvalidValue(f"Stage {missing[0]} is not trained. Train it first: stage={missing[0]}.")
        for stage in self.sampled_stages(options):
            resolve_guidance(stage.sampling.guidance_scale, self.conditioner)
        if not prompts:
            raise InvalidValue("The list of prompts is empty: expected at least one; '' is unconditional.")

    def _batches(
        self, prompts: Sequence[Prompt], frames: int, options: GenerationConfig, edit: EditMask | None
    ) -> list[_Batch]:
        """Return the samples of all prompts in batches."""
        rows = [self._with_timing(p, frames) for p in prompts for _ in range(options.num_waveforms_per_prompt)]
        shape = (len(rows), self.codec.num_codebooks, frames)
        if edit is not None and edit.codes.shape != shape:
            raise InvalidValue(f"The codes of the edit have shape {tuple(edit.codes.shape)}, expected {shape}.")
        batches = []
        for start in range(0, len(rows), options.batch_size):
            index = list(range(start, min(start + options.batch_size, len(rows))))
            part = None if edit is None else edit.select(index)
            masks = [None] * len(self.stage_names) if part is None else part.stage_masks(self.splitter)
            samples = [options.first_sample_index + i for i in index]
            batches.append(_Batch([rows[i] for i in index], samples, frames, part, masks))
        return batches

    def _start(
        self, batches: Sequence[_Batch], options: GenerationConfig, callback: StepCallback | None
    ) -> Callable[[Stage, Tensor, Tensor], Tensor]:
        """Count the steps of a run, and return the function to call after each, with the latents it returns."""
        self._interrupt, steps = False, count()
        strength = 1.0 if batches[0].edit is None else batches[0].edit.strength
        stages = self.sampled_stages(options)
        counts = [
            stage.num_timesteps(stage.sampling.num_inference_steps, strength)
            * len(self._windows(i, batches[0], options))
            for i, stage in enumerate(stages)
        ]
        self.num_timesteps = sum(n for batch in batches for i, n in enumerate(counts) if batch.is_sampled(i))

        def on_step_end(stage: Stage, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback is not None:
                result = callback(self, next(steps), timestep, {"latents": latents, "stage": stage.name})
                latents = (result or {}).get("latents", latents)
            if self._interrupt:
                raise GenerationInterrupted(f"Generation was interrupted in stage {stage.name}.")
            return latents

        return on_step_end

    def sampled_stages(self, options: GenerationConfig) -> list[Stage]:
        """Return the stages as these options sample them: their own sampling, changed by the preset, then the options.

        Raises InvalidValue for options that a stage cannot be sampled with.
        """
        names = ("num_inference_steps", "guidance_scale", "guidance_method", "guidance_rescale", "guidance_interval")
        overrides = {name: value for name in names if (value := getattr(options, name)) is not None}
        return [stage.with_sampling(**{**self._preset(stage, options.quality), **overrides}) for stage in self.stages]

    def _preset(self, stage: Stage, quality: Quality | None) -> dict[str, Any]:
        if quality is None:
            return {}
        own = self.presets.get(quality, {}).get(stage.name)
        usual = usual_preset(quality, stage.sampling, stage.train_scheduler) if own is None else {}
        return usual if own is None else own.model_dump(exclude_unset=True)

    def _with_timing(self, prompt: Prompt, frames: int) -> Prompt:
        """Add the duration of the audio, and its start 0, to a prompt where the model reads them."""
        fields = self.conditioner.fields if self.conditioner else ()
        timing = {"seconds": frames / self.codec.frame_rate, "start": 0.0}
        return {**{name: timing[name] for name in timing if name in fields}, **prompt_fields(prompt)}

    def _windows(self, i: int, batch: _Batch, options: GenerationConfig) -> list[Window]:
        """Return the windows that stage `i` is sampled in: one, unless the music is long, or a loop.

        Those whose new frames an edit keeps are left out. Raises InvalidValue for a loop of a pattern with delays.
        """
        length, edit = stage_shapes(self.codec, self.splitter, batch.frames)[i][1], batch.masks[i]
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
        self, batch: _Batch, options: GenerationConfig, on_step_end: Callable[[Stage, Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """Sample the latents (b, c, l) of every stage, each with the stages before it as its context."""
        stages: list[Tensor] = []
        for i, (stage, mask) in enumerate(zip(self.sampled_stages(options), batch.masks, strict=False)):
            mask = None if mask is None else mask.to(self.device)
            if mask is not None and mask.keeps_all:
                stages.append(mask.x_start)
                continue
            context = self._context(stages, batch)
            latents = self._sample_stage(i, batch, options, context, functools.partial(on_step_end, stage))
            _require_finite(latents, stage)
            stages.append(latents)
        return self._with_zeros(stages, batch)

    def _sample_stage(
        self,
        i: int,
        batch: _Batch,
        options: GenerationConfig,
        context: Tensor | None,
        on_step_end: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Sample the latents (b, c, l) of stage `i`, window by window."""
        stage, edit, generators = self.sampled_stages(options)[i], batch.masks[i], batch.generators(options.seed, i)
        edit = None if edit is None else edit.to(self.device)
        noise = rng.row_noise(stage_shapes(self.codec, self.splitter, batch.frames)[i], generators, self.device)
        result = torch.zeros_like(noise) if edit is None else edit.x_start.to(noise).clone()
        seconds = batch.frames / self.codec.frame_rate / noise.shape[-1]
        for window in self._windows(i, batch, options):
            frames = window.frames
            positive, negative = self._conditions(batch, options, float(frames[0]) * seconds)
            inputs = SamplingInput(
                noise=noise[..., frames],
                generators=generators,
                context=None if context is None else context[..., frames],
                condition=positive,
                negative_condition=negative,
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

    def _conditions(self, batch: _Batch, options: GenerationConfig, start: float) -> tuple[Condition, Condition]:
        """Return the conditions of the prompts and of the negative prompt for a window that starts so many seconds in.

        A conditioner that reads `start`, such as the tempo's, continues what it said in the window before.
        """
        start = start if self.conditioner and "start" in self.conditioner.fields else 0.0
        if start not in batch.encoded:
            prompts = [prompt_fields(prompt) for prompt in batch.prompts]
            if start:
                prompts = [{**fields, "start": start + float(fields.get("start") or 0)} for fields in prompts]
            negative = [options.negative_prompt] * len(batch)
            with self._on_device(self.conditioner):
                encoded = (conditions(self.conditioner, each, self.device) for each in (prompts, negative))
                batch.encoded[start] = (next(encoded), next(encoded))
        return batch.encoded[start]

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
        shapes = stage_shapes(self.codec, self.splitter, batch.frames)[len(stages) :]
        return [*stages, *(torch.zeros(len(batch), *shape, device=self.device) for shape in shapes)]

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
        context = LOOP_CONTEXT if context is None else context

        def decode_one(code: Tensor) -> Tensor:
            return decode_loop(codec.decode, code, context, hop_length) if loop else codec.decode(code)[..., :samples]

        with self._on_device(self.codec):
            return torch.cat([decode_one(code.to(self.device)).float().cpu() for code in codes])


load = Pipeline.from_pretrained


def _require_finite(latents: Tensor, stage: Stage) -> None:
    if not latents.isfinite().all():
        raise NonFiniteLatents(
            f"Stage {stage.name} generated latents that are not finite, in {stage.sampling.num_inference_steps} steps "
            f"of {stage.sampling.scheduler}: nothing was written. Try more steps, a smaller guidance_scale or float32; "
            "if it stays, the weights have diverged."
        )
