"""A trained model: from prompts to audio, and from a folder back to a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, Unpack, overload

import torch
from torch import Tensor, nn

from codecdiff import config, huggingface, rng
from codecdiff.codecs import chunked
from codecdiff.config.parts import did_you_mean
from codecdiff.config.schema import Guidance, Target
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.diffusion.sampling import SamplingInput, StageMask, sample_stage
from codecdiff.errors import InvalidValue, UnknownName, UserError
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Conditioner, Denoiser, Prompt, Splitter, prompt_fields
from codecdiff.pipeline import checkpoint
from codecdiff.pipeline.code_version import code_versions
from codecdiff.pipeline.generation import GenerationConfig, GenerationOptions, PipelineOutput
from codecdiff.pipeline.stage import Stage, build_denoiser, conditions, stage_shapes
from codecdiff.splitters import stage_names

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit, EditMask

# (pipeline, step, timestep, {"latents": ..., "stage": ...}) -> what replaces the latents, or None
StepCallback = Callable[["Pipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]


class GenerationInterrupted(UserError, RuntimeError):
    """A callback, or another thread, has stopped a run."""


class StageList(list[Stage]):
    """The stages of a model by index or by name, as in `pipe.stages["primary"]`."""

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Stage: ...
    @overload
    def __getitem__(self, key: slice) -> list[Stage]: ...
    def __getitem__(self, key: Any) -> Any:
        """Return a stage. Raises UnknownName for a name that no stage has."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        names = [stage.name for stage in self]
        if key not in names:
            raise UnknownName(f"No trained stage '{key}'. Available: {', '.join(names)}.{did_you_mean(key, names)}")
        return super().__getitem__(names.index(key))


@dataclass(frozen=True)
class _Batch:
    """Samples that are generated at once; `edit` has a row for each, and `masks` is what it keeps of each stage."""

    prompts: Sequence[Prompt]
    sample_indices: Sequence[int]
    frames: int
    edit: EditMask | None
    masks: Sequence[StageMask | None]

    def __len__(self) -> int:
        return len(self.prompts)

    def is_sampled(self, i: int) -> bool:
        """Return whether anything is left to generate of stage `i`."""
        mask = self.masks[i]
        return mask is None or not mask.keeps_all


class Pipeline:
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

    def __init__(
        self,
        codec: Codec,
        splitter: Splitter,
        conditioner: Conditioner | None,
        stages: Sequence[Stage],
        *,
        target: Target = "codes",
        snap_context: bool = True,
        data: dict[str, Any] | None = None,
        generation_config: GenerationConfig | None = None,
    ):
        self.codec, self.splitter, self.conditioner = codec, splitter, conditioner
        self.stages = stages
        self.target: Target = target
        self.snap_context = snap_context
        self.data = data or {}
        self.generation_config = generation_config or GenerationConfig()
        self.folder: Path | None = None  # it was loaded from
        self.num_timesteps = 0  # steps of the current or last call, of all stages and batches together
        self._interrupt = False
        self._offload_device: torch.device | None = None

    @property
    def stages(self) -> StageList:
        """The trained stages, coarse first, by index or by name."""
        return self._stages

    @stages.setter
    def stages(self, stages: Sequence[Stage]) -> None:
        self._stages = StageList(stages)

    @property
    def components(self) -> dict[str, Any]:
        """All that the model consists of: `Pipeline(**pipe.components)` is the same model, with shared weights."""
        names = ("codec", "splitter", "conditioner", "stages", "target", "snap_context", "data", "generation_config")
        return {name: getattr(self, name) for name in names}

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio, in Hz."""
        return self.codec.sample_rate

    @property
    def device(self) -> torch.device:
        """Device that computes."""
        return self._offload_device or device_of(self.stages[0].denoiser if self.stages else self.codec)

    @property
    def stage_names(self) -> list[str]:
        """Names of all stages of the pattern, trained or not."""
        return stage_names(len(stage_shapes(self.codec, self.splitter, 1)))

    @property
    def fingerprint(self) -> str | None:
        """Hash of the folder it was loaded from: parts, weights and sampling options; None if it was not loaded."""
        return None if self.folder is None else checkpoint.model_fingerprint(self.folder)

    def to(self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move every part to a device, and convert the denoisers to `dtype`; ends `enable_model_cpu_offload`.

        In float16 or bfloat16 the denoisers take half the memory. Codec, conditioner and the states of sampling keep
        their precision. Raises InvalidValue for a device that cannot be used.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        denoisers = [stage.denoiser for stage in self.stages]
        if device is not None:
            place, self._offload_device = usable_device(device), None
            for module in (self.codec, self.conditioner, *denoisers):
                if module is not None:
                    module.to(place)
        if dtype is not None:
            if dtype not in (torch.float32, torch.float16, torch.bfloat16):
                raise InvalidValue(f"Invalid dtype {dtype}: expected torch.float32, torch.float16 or torch.bfloat16.")
            for denoiser in denoisers:
                denoiser.to(dtype)
        return self

    def enable_model_cpu_offload(self, device: torch.device | str | None = None) -> Self:
        """Keep every part in the CPU's memory, and move it to a device only while it computes, one stage at a time.

        Needs as much memory of the device as the largest part. `to` ends it. Raises InvalidValue without an
        accelerator, unless a device is named.
        """
        if device is None and not torch.accelerator.is_available():
            raise InvalidValue("There is no accelerator here to move stages to: nothing to gain. Leave it out.")
        place = usable_device(device or torch.accelerator.current_accelerator() or "cpu")
        self.to("cpu")
        self._offload_device = place
        return self

    @contextmanager
    def _on_device(self, module: nn.Module | None) -> Iterator[None]:
        """Have a part on the device while it computes."""
        if self._offload_device is None or module is None:
            yield
            return
        module.to(self._offload_device)
        try:
            yield
        finally:
            module.to("cpu")

    def new_denoiser(self, i: int, spec: Any, *, seed: int = 0) -> Denoiser:
        """Build a denoiser for stage `i` from its configuration, with initial weights drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                rng.generator("codecdiff.train.initial_weights", seed, i).initial_seed()
            )
            return build_denoiser(spec, self.codec, self.splitter, self.conditioner, i)

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
        settings = self._options(generation_config, generator, options)
        with self._on_device(self.codec):
            mask, samples = edit.apply_to_audio(self._source(audio), self.codec, self.target)
        mask = mask.repeat(settings.num_waveforms_per_prompt)
        codes = self.generate_codes(
            [prompt], mask.frames, settings, edit=mask, callback_on_step_end=callback_on_step_end
        )
        return self._output([prompt], codes, samples, settings)

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

    def _source(self, audio: Tensor | Path | str) -> Tensor:
        """Return audio (ch, t) of a file, or a tensor, with the channels of the codec."""
        from codecdiff.data.audio import read_audio

        if isinstance(audio, str | Path):
            return read_audio(audio, self.sample_rate, self.codec.channels)
        if audio.ndim != 2 or not audio.shape[1]:
            raise InvalidValue(f"Invalid audio of shape {tuple(audio.shape)}: expected (ch, t), as in out.audios[0].")
        return audio.expand(self.codec.channels, -1)

    def _output(
        self, prompts: Sequence[Prompt], codes: Iterator[Tensor], samples: int, options: GenerationConfig
    ) -> PipelineOutput:
        together = torch.cat(list(codes))
        audios = self.decode(together.split(1), samples).clamp(-1, 1)
        repeated = [prompt for prompt in prompts for _ in range(options.num_waveforms_per_prompt)]
        return PipelineOutput(audios, together.cpu(), self.sample_rate, repeated, options)

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
                codes = self.codec.quantize(latents)
            if batch.edit is not None:
                edited = batch.edit.to(codes.device)
                codes = torch.where(edited.keep_mask, edited.codes.to(codes), codes)
            yield from codes.split(1)

    def _check(self, options: GenerationConfig, prompts: Sequence[Prompt], partial: bool) -> None:
        if not partial and (missing := self.stage_names[len(self.stages) :]):
            raise InvalidValue(f"Stage {missing[0]} is not trained. Train it first: stage={missing[0]}.")
        for stage in self.stages:
            stage.check_num_inference_steps(_steps(stage, options))
            self._guidance(stage, options)
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
        numbers = [stage.num_timesteps(_steps(stage, options), strength) for stage in self.stages]
        self.num_timesteps = sum(n for batch in batches for i, n in enumerate(numbers) if batch.is_sampled(i))

        def on_step_end(stage: Stage, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback is not None:
                result = callback(self, next(steps), timestep, {"latents": latents, "stage": stage.name})
                latents = (result or {}).get("latents", latents)
            if self._interrupt:
                raise GenerationInterrupted(f"Generation was interrupted in stage {stage.name}.")
            return latents

        return on_step_end

    def _guidance(self, stage: Stage, options: GenerationConfig) -> Guidance:
        scale = stage.sampling.guidance_scale if options.guidance_scale is None else options.guidance_scale
        return resolve_guidance(scale, self.conditioner)

    def _with_timing(self, prompt: Prompt, frames: int) -> Prompt:
        """Add the duration of the audio, and its start 0, to a prompt where the model reads them."""
        fields = self.conditioner.fields if self.conditioner else ()
        timing = {"seconds": frames / self.codec.frame_rate, "start": 0.0}
        return {**{name: timing[name] for name in timing if name in fields}, **prompt_fields(prompt)}

    def _sample_stages(
        self, batch: _Batch, options: GenerationConfig, on_step_end: Callable[[Stage, Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """Sample the latents (b, c, l) of every stage, each with the stages before it as its context."""
        with self._on_device(self.conditioner):
            positive, negative = (
                conditions(self.conditioner, prompts, self.device)
                for prompts in (batch.prompts, [options.negative_prompt] * len(batch))
            )
        shapes = stage_shapes(self.codec, self.splitter, batch.frames)
        stages: list[Tensor] = []
        for i, (stage, mask) in enumerate(zip(self.stages, batch.masks, strict=False)):
            mask = None if mask is None else mask.to(self.device)
            if mask is not None and mask.keeps_all:
                stages.append(mask.x_start)
                continue
            name, seed = "codecdiff.generate.noise", options.seed
            generators = [rng.generator(name, seed, index, i) for index in batch.sample_indices]
            inputs = SamplingInput(
                noise=rng.row_noise(shapes[i], generators, self.device),
                generators=generators,
                context=self._context(stages, batch),
                condition=positive,
                negative_condition=negative,
                mask=mask,
            )
            with self._on_device(stage.denoiser):
                latents = sample_stage(
                    stage.denoiser.eval(),
                    stage.scheduler,
                    inputs,
                    num_inference_steps=_steps(stage, options),
                    guidance_scale=self._guidance(stage, options),
                    noise_color=stage.noise_color,
                    on_step_end=functools.partial(on_step_end, stage),
                )
            stages.append(latents)
        return self._with_zeros(stages, batch)

    def _context(self, stages: Sequence[Tensor], batch: _Batch) -> Tensor | None:
        """Return what the next stage sees of those sampled so far, (b, c', l) or None."""
        padded = self._with_zeros(stages, batch)
        if self.snap_context and stages:
            with self._on_device(self.codec):
                snapped = self.codec.embed(self.codec.quantize(self.splitter.merge(padded)))
            padded[: len(stages)] = self.splitter.split(snapped)[: len(stages)]
        return self.splitter.context(padded, len(stages))

    def _with_zeros(self, stages: Sequence[Tensor], batch: _Batch) -> list[Tensor]:
        """Append zeros, the mean of the latents, for the stages that are not sampled."""
        shapes = stage_shapes(self.codec, self.splitter, batch.frames)[len(stages) :]
        return [*stages, *(torch.zeros(len(batch), *shape, device=self.device) for shape in shapes)]

    def decode(self, codes: Sequence[Tensor] | Iterator[Tensor], samples: int | None = None) -> Tensor:
        """Decode codes (1, k, l) one by one to audio (n, ch, t) on the CPU, cut to `samples`."""
        codec = chunked(self.codec)
        with self._on_device(self.codec):
            audio = [codec.decode(code.to(self.device))[..., :samples].float().cpu() for code in codes]
        return torch.cat(audio)

    def to_config(self) -> dict[str, Any]:
        """Return the description of the model for its codecdiff.json."""
        return {
            "format": checkpoint.FORMAT,
            "codec": config.to_config("codecs", self.codec),
            "splitter": config.to_config("splitters", self.splitter),
            "conditioner": config.to_config("conditioners", self.conditioner) if self.conditioner else None,
            "snap_context": self.snap_context,
            "target": self.target,
            "stages": self.stage_names,
            "data": self.data,
            "code": code_versions(self.codec, self.splitter, self.conditioner),
        }

    def save_pretrained(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save the model to a folder, or complete a folder that holds the same model.

        `dtype=torch.float16` halves its size; computation stays in float32. Raises InvalidValue if the folder holds
        another model.

        Example:
            >>> import codecdiff, torch
            >>> pipe = codecdiff.load("starter")
            >>> pipe.save_pretrained("my-model", dtype=torch.float16)
            >>> pipe = codecdiff.load("my-model")

        """
        self.save_parts(folder, dtype=dtype)
        for stage in self.stages:
            checkpoint.save_stage(Path(folder), stage, dtype)
        checkpoint.save_generation_config(Path(folder), self.generation_config)

    def push_to_hub(self, name: str, *, private: bool | None = None) -> str:
        """Upload the model to the Hugging Face hub as `owner/name`, and return its address.

        A model card and the logs of training come from the folder it was loaded from. `private` matters if the
        repository is new; None is the account's default. Raises UserError for a model that others could not load, and
        if the hub refuses it or cannot be reached.
        """
        from codecdiff.pipeline.hub import push_pipeline

        return push_pipeline(self, name, private=private)

    def save_parts(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save everything except the stages. Raises ValueError if the folder holds another model."""
        checkpoint.write_parts(Path(folder), self.to_config(), self.codec.fitted_state(), dtype)

    @classmethod
    def from_pretrained(
        cls,
        name: Path | str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        allow_download: bool = False,
    ) -> Self:
        """Load a model with its trained stages: a folder, an installed model such as `starter`, or a hub id.

        A hub id passed here is fetched. Ids that the model itself names for its parts are fetched only with
        `allow_download`, because its author chose them. `dtype` and `device` are those of `to`. Raises UserError if the
        model is not found or cannot be used.

        Example:
            >>> import codecdiff
            >>> codecdiff.load("starter", device="cpu").sample_rate  # the same function
            44100

        """
        from codecdiff.pipeline.hub import find_model

        folder = find_model(name)
        spec = checkpoint.read_config(folder)
        with huggingface.downloads(allow_download):
            parts = checkpoint.load_parts(folder, spec, allow_download)
        facts = {key: spec[key] for key in ("target", "snap_context", "data")}
        pipeline = cls(*parts, [], **facts, generation_config=checkpoint.load_generation_config(folder))
        pipeline.load_stages(folder)
        pipeline.folder = folder
        return pipeline.to(device, dtype)

    def load_stages(self, folder: Path | str) -> None:
        """Load the stages of a model folder, up to the first that is not trained."""
        folder = Path(folder)
        trained = takewhile(lambda name: (folder / name / "stage.json").exists(), self.stage_names)
        device, parts = device_of(self.codec), (self.codec, self.splitter, self.conditioner)
        self.stages = [checkpoint.load_stage(folder, name, *parts, i) for i, name in enumerate(trained)]
        self.to(device)

    def __repr__(self) -> str:
        conditioner = self.conditioner
        fields = f", reads {', '.join(conditioner.fields)}" if conditioner else ""
        rows = {
            "codec": f"{_title('codecs', self.codec)}: {self.codec.num_codebooks} codebooks of "
            f"{self.codec.codebook_size:,}, {self.codec.frame_rate:.4g} frames/s, {self.sample_rate:,} Hz",
            "pattern": f"{_title('splitters', self.splitter)}: {', '.join(self.stage_names)}",
            "conditioner": f"{_title('conditioners', conditioner)}{fields}" if conditioner else "none",
        }
        for stage in self.stages:
            size, sampling = sum(p.numel() for p in stage.denoiser.parameters()), stage.sampling
            rows[stage.name] = (
                f"{_title('denoisers', stage.denoiser)}, {size:,} parameters; {sampling.scheduler}, "
                f"{sampling.num_inference_steps} steps, guidance scale {sampling.guidance_scale}"
            )
        width = max(map(len, rows))
        return "\n".join(["Pipeline", *(f"  {name:{width}}  {text}" for name, text in rows.items())])


load = Pipeline.from_pretrained


def prompt_list(prompt: Any) -> list[Prompt]:
    """Return one prompt or several as a list. Raises InvalidValue for anything else."""
    prompts = [prompt] if isinstance(prompt, str | Mapping) else prompt
    if not isinstance(prompts, Sequence) or not all(isinstance(each, str | Mapping) for each in prompts):
        raise InvalidValue(
            f"Invalid prompt {prompt!r}: expected a text, a mapping of fields such as {{'text': 'a waltz'}}, or a list "
            "of these."
        )
    return [prompt_fields(each) for each in prompts]


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device. Raises InvalidValue if it cannot be used here."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InvalidValue(
            f"Device '{device}' cannot be used: {reason}. `codecdiff doctor` lists those here."
        ) from error


def _steps(stage: Stage, options: GenerationConfig) -> int:
    own = stage.sampling.num_inference_steps
    return own if options.num_inference_steps is None else options.num_inference_steps


def _title(kind: str, part: Any) -> str:
    """Return the name of a part with those inside it, as in "normalized(dac)"."""

    def title(spec: Mapping[str, Any]) -> str:
        values = [each for value in spec.values() for each in (value if isinstance(value, list) else [value])]
        inner = [title(value) for value in values if isinstance(value, Mapping) and "name" in value]
        return spec["name"] + (f"({', '.join(inner)})" if inner else "")

    try:
        return title(config.to_config(kind, part))
    except UserError:  # a part that is not installed, such as a class of a notebook
        return type(part).__name__
