"""A trained model: from prompts to audio, and from a folder back to a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from codecdiff import config, huggingface, rng
from codecdiff.codecs import chunked
from codecdiff.config.schema import Guidance, Target
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.diffusion.sampling import SamplingInput, sample_stage
from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Conditioner, Denoiser, Prompt, Splitter, prompt_fields
from codecdiff.pipeline import checkpoint
from codecdiff.pipeline.code_version import code_versions
from codecdiff.pipeline.stage import Stage, build_denoiser, conditions, stage_shapes
from codecdiff.splitters import stage_names

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import EditMask


# (pipeline, step, timestep, {"latents": ..., "stage": ...}) -> what replaces the latents, or None
StepCallback = Callable[["Pipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]


class GenerationConfig(BaseModel):
    """Options of generation, in the words of diffusers.

    num_inference_steps, guidance_scale: None for each stage's own.
    negative_prompt: guided away from, in place of the empty prompt.
    num_waveforms_per_prompt: samples that differ in their noise.
    first_sample_index: index of the first sample; every sample has its own noise by the seed and its index.
    batch_size: samples that are computed at once, which does not change them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: int | None = None
    guidance_scale: Guidance | None = None
    negative_prompt: Prompt = ""
    num_waveforms_per_prompt: int = 1
    seed: int = 0
    first_sample_index: int = 0
    batch_size: int = 16

    def merge(self, **overrides: Any) -> Self:
        """Return these options with some replaced. Raises ValueError for an unknown name or an invalid value."""
        return type(self)(**{**dict(self), **overrides}) if overrides else self


@dataclass(frozen=True)
class _Batch:
    """Samples that are generated at once; `edit` has a row for each."""

    prompts: Sequence[Prompt]
    sample_indices: Sequence[int]
    frames: int
    edit: EditMask | None


class Pipeline:
    """A trained model. `generate` makes audio from prompts, `save` and `load` keep it in a folder.

    target: what is diffused: codebook vectors, or the continuous latents before quantization.
    snap_context: a stage sees the codebook vectors of the stages before it, else their latents as sampled.
    data: facts about the training data.

    Example:
        pipeline = codecdiff.load("starter")
        audio = pipeline.generate("a slow waltz", seconds=10, guidance_scale=3.0, seed=0)  # (1, ch, t)

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
    ):
        self.codec, self.splitter, self.conditioner = codec, splitter, conditioner
        self.stages = list(stages)
        self.target: Target = target
        self.snap_context = snap_context
        self.data = data or {}
        self.folder: Path | None = None  # it was loaded from

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio, in Hz."""
        return self.codec.sample_rate

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return device_of(self.stages[0].denoiser if self.stages else self.codec)

    @property
    def stage_names(self) -> list[str]:
        """Names of all stages of the pattern, trained or not."""
        return stage_names(len(stage_shapes(self.codec, self.splitter, 1)))

    @property
    def fingerprint(self) -> str | None:
        """Hash of the folder it was loaded from: parts, weights and sampling options; None if it was not loaded."""
        return None if self.folder is None else checkpoint.model_fingerprint(self.folder)

    def to(self, device: Any) -> Self:
        """Move every part to a device."""
        for module in (self.codec, self.conditioner, *(stage.denoiser for stage in self.stages)):
            if module is not None:
                module.to(device)
        return self

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
            raise InvalidValue(f"Invalid seconds={seconds}: expected more than 0 and at most 3600.")
        return -(-round(seconds * self.sample_rate) // self.codec.hop_length)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        generation_config: GenerationConfig | None = None,
        *,
        seconds: float = 10.0,
        edit: EditMask | None = None,
        partial: bool = False,
        **overrides: Any,
    ) -> Tensor:
        """Generate audio (n, ch, t) in [-1, 1], the samples of one prompt after each other; see `generate_codes`.

        An empty prompt is unconditional. `overrides` are fields of `GenerationConfig`.
        """
        batch = [prompts] if isinstance(prompts, str | Mapping) else prompts
        batch = [prompt_fields(prompt) for prompt in batch]
        frames = self.frames(seconds)
        codes = self.generate_codes(batch, frames, generation_config, edit=edit, partial=partial, **overrides)
        return self.decode(codes, round(seconds * self.sample_rate)).clamp(-1, 1)

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
        **overrides: Any,
    ) -> Iterator[Tensor]:
        """Yield the codes (1, k, l) of every sample, the samples of one prompt after each other.

        A model that reads `seconds` and `start` of a prompt gets those of the audio unless the prompt has its own.
        `edit` has one row for every sample: the codes it keeps are returned unchanged, and the others are generated to
        fit them. A sample depends on the seed, its index and its prompt, not on its batch. With `partial`, stages
        that are not trained yet are left at the mean of their latents. `callback_on_step_end` is called as
        `callback(pipe, step, timestep, {"latents": ..., "stage": ...})` after every step, which counts over all stages
        and batches to `pipe.num_timesteps`; "latents" that it returns replace those. Raises ValueError for invalid
        options.
        """
        options = (generation_config or GenerationConfig()).merge(**overrides)
        self._check(options, prompts, partial)
        rows = [self._with_timing(p, frames) for p in prompts for _ in range(options.num_waveforms_per_prompt)]
        shape = (len(rows), self.codec.num_codebooks, frames)
        if edit is not None and edit.codes.shape != shape:
            raise InvalidValue(f"The codes of the edit have shape {tuple(edit.codes.shape)}, expected {shape}.")
        steps = [options.num_inference_steps or stage.num_inference_steps for stage in self.stages]
        self.num_timesteps, on_step_end = (
            sum(steps) * -(-len(rows) // options.batch_size),
            self._counter(callback_on_step_end),
        )
        for start in range(0, len(rows), options.batch_size):
            index = list(range(start, min(start + options.batch_size, len(rows))))
            mask = None if edit is None else edit.select(index).to(self.device)
            batch = _Batch([rows[i] for i in index], [options.first_sample_index + i for i in index], frames, mask)
            codes = self.codec.quantize(self.splitter.merge(self._sample_stages(batch, options, on_step_end)))
            yield from (codes if mask is None else torch.where(mask.keep_mask, mask.codes.to(codes), codes)).split(1)

    def _check(self, options: GenerationConfig, prompts: Sequence[Prompt], partial: bool) -> None:
        if not partial and (missing := self.stage_names[len(self.stages) :]):
            raise InvalidValue(f"Stage {missing[0]} is not trained. Train it first: stage={missing[0]}.")
        for stage in self.stages:
            stage.check_num_inference_steps(
                stage.num_inference_steps if options.num_inference_steps is None else options.num_inference_steps
            )
            self._guidance(stage, options)
        if options.num_waveforms_per_prompt < 1 or options.batch_size < 1 or not prompts:
            raise InvalidValue(
                f"Invalid num_waveforms_per_prompt={options.num_waveforms_per_prompt} for {len(prompts)} prompts in "
                f"batches of {options.batch_size}: expected at least 1 of each."
            )

    def _guidance(self, stage: Stage, options: GenerationConfig) -> Guidance:
        scale = stage.guidance_scale if options.guidance_scale is None else options.guidance_scale
        return resolve_guidance(scale, self.conditioner)

    def _with_timing(self, prompt: Prompt, frames: int) -> Prompt:
        """Add the duration of the audio, and its start 0, to a prompt where the model reads them."""
        fields = self.conditioner.fields if self.conditioner else ()
        timing = {"seconds": frames / self.codec.frame_rate, "start": 0.0}
        return {**{name: timing[name] for name in timing if name in fields}, **prompt_fields(prompt)}

    def _counter(self, callback: StepCallback | None) -> Callable[[Stage, Tensor, Tensor], Tensor]:
        """Return the function (stage, timestep, latents) -> latents to call after every step of a run."""
        steps = count()

        def on_step_end(stage: Stage, timestep: Tensor, latents: Tensor) -> Tensor:
            values = {"latents": latents, "stage": stage.name}
            result = callback(self, next(steps), timestep, values) if callback else None
            return (result or values)["latents"]

        return on_step_end

    def _sample_stages(
        self, batch: _Batch, options: GenerationConfig, on_step_end: Callable[[Stage, Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """Sample the latents (b, c, l) of every stage, each with the stages before it as its context."""
        positive, negative = (
            conditions(self.conditioner, prompts, self.device)
            for prompts in (batch.prompts, [options.negative_prompt] * len(batch.prompts))
        )
        shapes = stage_shapes(self.codec, self.splitter, batch.frames)
        masks = [None] * len(shapes) if batch.edit is None else batch.edit.stage_masks(self.splitter)
        stages: list[Tensor] = []
        for i, (stage, mask) in enumerate(zip(self.stages, masks, strict=False)):
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
            latents = sample_stage(
                stage.denoiser.eval(),
                stage.new_scheduler(),
                inputs,
                num_inference_steps=options.num_inference_steps or stage.num_inference_steps,
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
            codes = self.codec.quantize(self.splitter.merge(padded))
            padded[: len(stages)] = self.splitter.split(self.codec.embed(codes))[: len(stages)]
        return self.splitter.context(padded, len(stages))

    def _with_zeros(self, stages: Sequence[Tensor], batch: _Batch) -> list[Tensor]:
        """Append zeros, the mean of the latents, for the stages that are not sampled."""
        shapes = stage_shapes(self.codec, self.splitter, batch.frames)[len(stages) :]
        return [*stages, *(torch.zeros(len(batch.prompts), *shape, device=self.device) for shape in shapes)]

    def decode(self, codes: Sequence[Tensor] | Iterator[Tensor], samples: int | None = None) -> Tensor:
        """Decode codes (1, k, l) one by one to audio (n, ch, t) on the CPU, cut to `samples`."""
        codec = chunked(self.codec)
        return torch.cat([codec.decode(code)[..., :samples].float().cpu() for code in codes])

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

    def save(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save the model to a folder, or complete a folder that holds the same model.

        `dtype=torch.float16` halves its size; computation stays in float32. Raises ValueError if the folder holds
        another model.
        """
        self.save_parts(folder, dtype=dtype)
        for stage in self.stages:
            checkpoint.save_stage(Path(folder), stage, dtype)

    def save_parts(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save everything except the stages. Raises ValueError if the folder holds another model."""
        checkpoint.write_parts(Path(folder), self.to_config(), self.codec.fitted_state(), dtype)

    @classmethod
    def load(cls, folder: Path | str, *, allow_download: bool = False) -> Pipeline:
        """Load the model of a folder, with its trained stages.

        Parts that the folder names by a hub id are fetched only with `allow_download`, because the author of the folder
        chose them. Raises FileNotFoundError, LookupError or ValueError if the model cannot be used.
        """
        folder = Path(folder)
        spec = checkpoint.read_config(folder)
        with huggingface.downloads(allow_download):
            codec, splitter, conditioner = checkpoint.load_parts(folder, spec, allow_download)
        options = {key: spec[key] for key in ("target", "snap_context", "data")}
        pipeline = cls(codec, splitter, conditioner, [], **options)
        pipeline.load_stages(folder)
        pipeline.folder = folder
        return pipeline

    def load_stages(self, folder: Path | str) -> None:
        """Load the stages of a model folder, up to the first that is not trained."""
        folder = Path(folder)
        trained = takewhile(lambda name: (folder / name / "stage.json").exists(), self.stage_names)
        device, parts = device_of(self.codec), (self.codec, self.splitter, self.conditioner)
        self.stages = [checkpoint.load_stage(folder, name, *parts, i) for i, name in enumerate(trained)]
        self.to(device)
