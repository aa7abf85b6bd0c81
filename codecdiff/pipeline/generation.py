"""The options of a generation, and the files in which a model keeps its own: generation_config.json, presets.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, Unpack, get_args

from pydantic import ConfigDict, Field, NonNegativeInt
from torch import Tensor

from codecdiff.arguments import Arguments, unexpected_option
from codecdiff.config.schema import Fraction, Guidance, GuidanceMethod, Interval, SamplingConfig
from codecdiff.data.sealed import FILES, SEAL, read_sealed, write_sealed
from codecdiff.errors import InvalidValue, did_you_mean
from codecdiff.files import check_schema
from codecdiff.interfaces import Prompt, prompt_fields

GENERATION_FILE, PRESETS_FILE = "generation_config.json", "presets.json"
MAX_BATCH = 4096
SAMPLING_OPTIONS = (  # of every stage
    "num_inference_steps",
    "guidance_scale",
    "guidance_method",
    "guidance_rescale",
    "guidance_interval",
)
# (pipeline, step, timestep, {"latents": ..., "stage": ...}) -> what replaces the latents, or None
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
Quality = Literal["paper", "balanced", "fast"]
Presets = dict[Quality, dict[str, SamplingConfig]]  # of every stage by its name, the options that are set explicitly
Loudness = Annotated[float, Field(ge=-40, le=-5)] | Literal["off"]


class GenerationOptions(TypedDict, total=False):
    """The fields of `GenerationConfig` as keyword arguments; None leaves a field as it is."""

    audio_length_in_s: float | None
    num_inference_steps: int | None
    guidance_scale: Guidance | None
    quality: Quality | None
    guidance_method: GuidanceMethod | None
    guidance_rescale: float | None
    guidance_interval: tuple[float, float] | None
    window_in_s: float | None
    loop: bool | None
    negative_prompt: Prompt | None
    num_waveforms_per_prompt: int | None
    seed: int | None
    first_sample_index: int | None
    batch_size: int | None
    loudness: Loudness | None


class GenerationConfig(Arguments):
    """Options of generation, in the words of diffusers. A model folder keeps its own in generation_config.json.

    audio_length_in_s: duration; that of an edit follows from its source.
    quality: a preset of the model, which says how each stage is sampled; the other options override it.
    num_inference_steps, guidance_scale, guidance_method, guidance_rescale, guidance_interval: of `SamplingConfig`; None
        for each stage's own.
    window_in_s: seconds that are sampled at once; None for all, or 30 s of music longer than 60 s.
    loop: generate music whose end leads into its beginning, of whole frames.
    negative_prompt: guided away from, in place of the empty prompt.
    num_waveforms_per_prompt: samples that differ in their noise.
    first_sample_index: index of the first sample; every sample has its own noise by the seed and its index.
    batch_size: samples that are computed at once, which does not change them beyond the rounding of sums.
    loudness: LUFS that audio is brought to, with true peaks of at most -1 dBTP; or "off". An edit keeps its level.

    Example:
        >>> from codecdiff import GenerationConfig
        >>> GenerationConfig(num_inference_steps=20).merge(seed=7, guidance_scale=None).seed
        7

    """

    model_config = ConfigDict(frozen=True)

    audio_length_in_s: float = Field(default=10.0, gt=0, le=3600, allow_inf_nan=False)
    num_inference_steps: int | None = None
    guidance_scale: Guidance | None = None
    quality: Quality | None = None
    guidance_method: GuidanceMethod | None = None
    guidance_rescale: Fraction | None = None
    guidance_interval: Interval | None = None
    window_in_s: float | None = Field(default=None, ge=0.5, le=3600)
    loop: bool = False
    negative_prompt: Prompt = ""
    num_waveforms_per_prompt: int = Field(default=1, gt=0, le=100_000)
    seed: NonNegativeInt = 0
    first_sample_index: NonNegativeInt = 0
    batch_size: int = Field(default=16, gt=0, le=MAX_BATCH)
    loudness: Loudness = -14.0

    def merge(self, **overrides: Unpack[GenerationOptions]) -> Self:
        """Return these options, replaced by those that are not None.

        Raises UnexpectedOption for a name that is not a field, and InvalidValue for a value that a field cannot have.
        """
        names = list(type(self).model_fields)
        if unknown := next((name for name in overrides if name not in names), None):
            raise unexpected_option(unknown, names)
        values = {name: value for name, value in overrides.items() if value is not None}
        return type(self)(**{**dict(self), **values}) if values else self


def replaced_latents(result: Any, latents: Tensor) -> Tensor:
    """Return the latents that a callback has returned, or those that it was called with if it returned none.

    Raises InvalidValue for anything else.
    """
    if result is None:
        return latents
    if not isinstance(result, Mapping):
        raise InvalidValue(f"callback_on_step_end returned {result!r}: expected its last argument, a mapping, or None.")
    replaced = result.get("latents", latents)
    if not isinstance(replaced, Tensor) or replaced.shape != latents.shape:
        shown = tuple(replaced.shape) if isinstance(replaced, Tensor) else repr(replaced)
        raise InvalidValue(
            f"callback_on_step_end returned latents {shown}: expected a tensor of shape {tuple(latents.shape)}."
        )
    return replaced.to(latents)


def with_progress_bar(callback: StepCallback | None, options: Mapping[str, Any]) -> StepCallback:
    """Return a callback that advances a progress bar of all steps of a call, and calls the given one."""
    from huggingface_hub.utils import tqdm

    bar: Any = None

    def on_step_end(pipe: Any, step: int, timestep: Tensor, values: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=pipe.num_timesteps, **options)
        bar.update()
        if step + 1 == pipe.num_timesteps:
            bar.close()
        return callback(pipe, step, timestep, values) if callback else None

    return on_step_end


def unused_note(negative_prompt: Prompt, guidance_scales: Iterable[Guidance]) -> str:
    """Return a note on a negative prompt that no stage is guided away from; empty if there is none."""
    scales = [value for each in guidance_scales for value in (each.values() if isinstance(each, Mapping) else [each])]
    if not any(prompt_fields(negative_prompt).values()) or any(scale != 1 for scale in scales):
        return ""
    return "The negative prompt has no effect: no stage is guided, because guidance_scale is 1."


def usual_preset(quality: Quality, sampling: SamplingConfig, train_scheduler: Any) -> dict[str, Any]:
    """Return how a stage is sampled at a quality, where its model has no preset: what differs from its own sampling.

    paper: 100 steps of DDPM over the whole schedule (or of the stage's own scheduler, of a flow). fast: half of the own
    steps, 4 to 12, guided in the middle of the schedule alone (Kynkäänniemi et al., 2024).
    """
    from codecdiff.diffusion.noise_schedule import prediction_type_of

    if quality == "paper":
        of_flow = prediction_type_of(train_scheduler) == "flow"
        steps = min(100, train_scheduler.config.num_train_timesteps)
        whole = {"num_inference_steps": steps, "final_timestep_fraction": 0.0, "timestep_spacing": "even"}
        return whole if of_flow else {**whole, "scheduler": "ddpm"}
    if quality == "fast":
        steps = min(12, max(4, sampling.num_inference_steps // 2))
        solver = {"scheduler": "dpm++2m"} if sampling.scheduler == "ddpm" else {}
        return {"num_inference_steps": steps, "guidance_interval": (0.3, 0.8), **solver}
    return {}


def prompt_list(prompt: Any) -> list[Prompt]:
    """Return one prompt or several as a list. Raises InvalidValue for anything else."""
    prompts = [prompt] if isinstance(prompt, str | Mapping) else prompt
    if not isinstance(prompts, Sequence) or not all(isinstance(each, str | Mapping) for each in prompts):
        raise InvalidValue(
            f"Invalid prompt {prompt!r}: expected a text, a mapping of fields such as {{'text': 'a waltz'}}, or a list "
            "of these."
        )
    return [prompt_fields(each) for each in prompts]


def save_generation_config(folder: Path, generation_config: GenerationConfig) -> None:
    """Write generation_config.json: the fields that differ from their defaults."""
    write_sealed(folder / GENERATION_FILE, generation_config.model_dump(mode="json", exclude_defaults=True))


def load_generation_config(folder: Path) -> GenerationConfig:
    """Read generation_config.json, if there is one. Raises InvalidValue if it is not valid."""
    file = folder / GENERATION_FILE
    options = read_sealed(file) if file.exists() else {}
    if isinstance(options, dict):
        options = {name: value for name, value in options.items() if name not in (FILES, SEAL)}
    return check_schema(options, str(file), GenerationConfig)


def checked_presets(presets: Any, stages: Sequence[str]) -> Presets:
    """Return presets of a model with these stages. Raises InvalidValue for another name or other options."""
    table = presets if isinstance(presets, Mapping) else {}
    stages_of = [name for own in table.values() if isinstance(own, Mapping) for name in own]
    for kind, available, names in (("preset", get_args(Quality), table), ("stage", stages, stages_of)):
        if unknown := next((name for name in names if name not in available), None):
            hint = f"Available: {', '.join(available)}.{did_you_mean(str(unknown), available)}"
            raise InvalidValue(f"Unknown {kind} {unknown!r} in the presets of a model. {hint}")
    return check_schema(presets, "The table of presets", Presets)


def save_presets(folder: Path, presets: Presets) -> None:
    """Write presets.json."""
    table = {
        name: {stage: own.model_dump(exclude_unset=True) for stage, own in p.items()} for name, p in presets.items()
    }
    write_sealed(folder / PRESETS_FILE, {"presets": table})


def load_presets(folder: Path, digests: dict[str, str] | None = None) -> Presets:
    """Read presets.json, if there is one. Raises InvalidValue if it is not valid."""
    file = folder / PRESETS_FILE
    spec = read_sealed(file, digests, PRESETS_FILE) if file.exists() else {"presets": {}}
    return check_schema(spec.get("presets") if isinstance(spec, dict) else None, str(file), Presets)
