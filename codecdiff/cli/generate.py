"""`codecdiff generate`: audio from a prompt; and what all commands that generate share."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from codecdiff.cli.console import (
    TIME,
    Device,
    Force,
    err,
    file_exists,
    numbered,
    out,
    output_files,
    progress,
    select_device,
)
from codecdiff.errors import InvalidValue, UserError

if TYPE_CHECKING:
    from codecdiff.interfaces import Conditioner, Prompt
    from codecdiff.pipeline.generation import GenerationOptions
    from codecdiff.pipeline.pipeline import Pipeline
    from codecdiff.pipeline.provenance import GenerationRequest


Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Audio file to write. Default: a new one.")
]
NegativePrompt = Annotated[
    str, typer.Option("--negative-prompt", "--negative", help="What the music should not be like.", show_default=False)
]
Model = Annotated[
    str, typer.Option(help="Folder of a model or of its training run, installed model, or Hugging Face id.")
]
Seconds = Annotated[float | None, typer.Option(**TIME, help="Duration, as in 90 or 1:30. Default: the model's.")]
Steps = Annotated[
    int | None,
    typer.Option("--num-inference-steps", "--steps", help="Sampling steps of every stage. Default: the model's."),
]
Quality = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET",
        help="paper (many steps), balanced (the model's own) or fast (few, guided less). Other options override it.",
    ),
]
GuidanceScale = Annotated[
    list[str] | None,
    typer.Option(
        "--guidance-scale",
        "--guidance",
        metavar="NUMBER|KEY=NUMBER",
        help="How closely to follow the prompt; 1 disables guidance. For a single field, as in text=3; repeatable. "
        "Default: the model's.",
    ),
]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="KEY=VALUE", help="Another field of the prompt, as in bpm=120; repeatable."),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar="NAME=FILE",
        help="Audio file that the music follows over time, as in chroma=song.wav; repeatable.",
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed generates the same music. Default: a new one.")]
Loudness = Annotated[str | None, typer.Option(metavar="LUFS|OFF", help="Loudness; off: as decoded. Default: -14.")]
MIN_SECONDS = 0.1
OPTION_NAMES = {
    "audio_length_in_s": "--seconds",
    "num_inference_steps": "--steps",
    "num_waveforms_per_prompt": "--num-waveforms",
}
NumWaveforms = Annotated[
    int, typer.Option("--num-waveforms", "--takes", min=1, max=1000, help="Number to generate; -o can place it at {n}.")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="Adapter of the model, and how strongly it changes it, as in runs/blues:0.8 or runs/blues:primary=0.5; "
        "repeatable.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Waveforms to compute at once. Default: the model's, 16.")]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Download what the model names on the Hugging Face hub.")
]
AllowLocalParts = Annotated[
    bool, typer.Option("--allow-local-parts", help="Use files outside of the model's folder that it names.")
]


def generate(
    prompt: Annotated[str, typer.Argument(help="Description of the music; may be empty.", show_default=False)],
    output: Output = None,
    negative_prompt: NegativePrompt = "",
    model: Model = "starter",
    seconds: Seconds = None,
    loop: Annotated[bool, typer.Option("--loop", help="Music whose end leads into its beginning.")] = False,
    quality: Quality = None,
    num_inference_steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    fields: Fields = None,
    controls: Controls = None,
    seed: Seed = None,
    num_waveforms: NumWaveforms = 1,
    batch_size: BatchSize = None,
    loudness: Loudness = None,
    adapters: Adapters = None,
    force: Force = False,
    device: Device = "",
    allow_download: AllowDownload = False,
    allow_local_parts: AllowLocalParts = False,
) -> None:
    """Generate music from a prompt."""
    seed = choose_seed(seed, [] if force else numbered(output, num_waveforms) if output else [])
    default = Path(f"{file_stem(prompt)}-{seed}.wav")
    files = output_files(output, default, num_waveforms, force=force, is_allowed=request_of)
    sampling = {"quality": quality, "num_inference_steps": num_inference_steps, "batch_size": batch_size}
    options = config_options(
        guidance_scale,
        loop=loop or None,
        loudness=loudness,
        audio_length_in_s=seconds,
        negative_prompt=negative_prompt or None,
        num_waveforms_per_prompt=num_waveforms,
        seed=seed,
        **sampling,
    )
    pipeline = load_model(model, device, adapters, allow_download=allow_download, allow_local_parts=allow_local_parts)
    request = new_request(pipeline, prompt, fields, controls, options)
    generate_files(request, pipeline, files, force=force)


def file_stem(prompt: str) -> str:
    """Return a prompt as the stem of a file's name: its first words, joined by '-'."""
    words = re.findall(r"\w+", prompt.lower())
    return re.sub(r"-[^-]*$", "", "-".join(words)[:41]) if len("-".join(words)) > 40 else "-".join(words) or "untitled"


def choose_seed(seed: int | None, files: Iterable[Path] = ()) -> int:
    """Return the seed of the command line, that of files which such a command made before, or a random one."""
    before = (request.generation.seed for request in map(request_of, files) if request)
    return next(before, secrets.randbelow(10**6)) if seed is None else seed


def request_of(file: Path) -> GenerationRequest | None:
    """Return how a file was generated, if it was."""
    from codecdiff.pipeline.provenance import GenerationRequest

    try:
        return GenerationRequest.from_file(file)
    except UserError:
        return None


def load_model(model: str, device: str, adapters: Sequence[str] | None = None, **allowed: Any) -> Pipeline:
    """Load a model onto a device, with adapters FOLDER[:WEIGHT]; `allowed` are options of `from_pretrained`."""
    from codecdiff.pipeline.adapters import parse_adapter
    from codecdiff.pipeline.pipeline import Pipeline

    parsed = [parse_adapter(text) for text in adapters or ()]
    with err.status(f"Loading {model}"):
        pipeline = Pipeline.from_pretrained(model, device=select_device(device), **allowed)
        for folder, weight in parsed:
            pipeline.load_adapter(folder, weight)
    return pipeline


@contextmanager
def options_named() -> Iterator[None]:
    """Have errors name the options of the command line, not the arguments of Python that they stand for."""
    try:
        yield
    except InvalidValue as error:
        name = re.match(r"Invalid (\w+)=", str(error))
        if name is None:
            raise
        option = OPTION_NAMES.get(name[1], f"--{name[1].replace('_', '-')}")
        raise InvalidValue(f"Invalid {option} {str(error)[name.end() :]}") from error


def config_options(guidance_scale: list[str] | None, **options: Any) -> GenerationOptions:
    """Return options of the command line. Raises InvalidValue, which names the option, for a wrong value."""
    from codecdiff.diffusion.guidance import parse_guidance_scale
    from codecdiff.pipeline.generation import GenerationConfig

    options["guidance_scale"] = parse_guidance_scale(guidance_scale or [])
    if (options.get("audio_length_in_s") or MIN_SECONDS) < MIN_SECONDS:
        raise InvalidValue(f"Invalid --seconds {options['audio_length_in_s']}: expected at least {MIN_SECONDS}.")
    with options_named():
        GenerationConfig().merge(**cast(Any, options))
    return cast(Any, options)


def new_request(
    pipeline: Pipeline,
    prompt: Prompt,
    fields: list[str] | None,
    controls: list[str] | None,
    options: GenerationOptions,
    **edited: Any,
) -> GenerationRequest:
    """Return the request for a prompt to a model. Raises InvalidValue for fields and controls it does not read."""
    from codecdiff.diffusion.guidance import resolve_guidance
    from codecdiff.interfaces import prompt_fields
    from codecdiff.pipeline.conditions import check_control_names

    if (scale := options.get("guidance_scale")) is not None:
        resolve_guidance(scale, pipeline.conditioner)
    values = prompt_values(fields or [], pipeline.conditioner)
    if controls:
        values["controls"] = parse_controls(controls)
        check_control_names([values], pipeline.conditioner)
    generation = pipeline.generation_config.merge(**options)
    with options_named():
        pipeline.sampled_stages(generation)
    return pipeline.request({**prompt_fields(prompt), **values}, generation, **edited)


def notes(request: GenerationRequest, pipeline: Pipeline) -> Iterator[str]:
    """Yield what of a request the model ignores or was not trained on, and its seed."""
    from codecdiff.pipeline.generation import unused_note
    from codecdiff.pipeline.vocabulary import vocabulary_note
    from codecdiff.pipeline.windows import length_note

    crop, seconds = pipeline.stages[0].facts.get("crop_seconds"), request.generation.audio_length_in_s
    if request.edit is None and seconds != pipeline.generation_config.audio_length_in_s:
        yield length_note(seconds, crop, request.generation.window_in_s)
    conditioner, prompt = pipeline.conditioner, request.prompt
    text = str(prompt.get("text", "")).strip()
    if conditioner is None:
        yield "This model was trained without conditions: the prompt is ignored."
    elif not text and prompt.keys() <= {"text"}:
        how = "--prompt" if request.edit else "a prompt"
        yield f"Without a prompt, the model decides what it plays. Describe the music with {how}."
    elif text and "text" not in conditioner.fields:
        yield f"This model reads only --field {', '.join(conditioner.fields)}: the text is ignored."
    else:
        negative, guidance = request.generation.negative_prompt, [s.guidance_scale for s in request.stages.values()]
        yield vocabulary_note(conditioner, pipeline.data, [prompt, negative], pipeline.name)
        yield unused_note(negative, guidance)
    yield f"Seed: {request.generation.seed}"


def worded(value: Any) -> str:
    """Return a value of a request as people write it, as in `text 1.5, key 1`; the text of a prompt has no name."""
    if isinstance(value, Mapping):
        names = (f"{name} " * (name != "text" or not isinstance(each, str)) for name, each in value.items())
        return ", ".join(name + worded(each) for name, each in zip(names, value.values(), strict=True))
    if isinstance(value, list | tuple):
        return ", ".join(map(worded, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def generate_files(
    request: GenerationRequest,
    pipeline: Pipeline,
    files: Sequence[Path],
    source: Path | None = None,
    *,
    force: bool = True,
) -> None:
    """Generate a waveform for every file and write it, with its own request as its comment.

    Unless files are to be overwritten by `force`, those that this request made before are kept. Raises FileExists for
    others. Notes follow the first step: they do not bury an error.
    """
    from codecdiff.pipeline.output import write_waveform

    issue, existing = "", {} if force else {i: file for i, file in enumerate(files) if file.exists()}
    for i, file in existing.items():
        before = request_of(file)
        if before is None or before.comment() != request.waveform(i).comment():
            raise file_exists(file)
    if existing and len(existing) == len(files):
        are, them = ("is", "it") if len(files) == 1 else ("are", "them")
        finished = f"{', '.join(map(str, files))} {are} complete: an earlier run of this command wrote {them}."
        again = f"For other music, change --seed and -o; to generate {them} again, add --force."
        out.print(f"{finished} {again}", soft_wrap=True)
        return

    def on_step_end(pipe: Pipeline, step: int, timestep: Any, values: Any) -> None:
        for note in filter(None, notes(request, pipe) if step == 0 else ()):
            err.print(note, soft_wrap=True)
        advance(step + 1, pipe.num_timesteps)

    with progress("Sampling steps", None) as advance:
        audios = pipeline.generate_request(request, source, callback_on_step_end=on_step_end)
        for i, (file, audio) in enumerate(zip(files, audios, strict=True)):
            if i not in existing:
                issue = write_waveform(file, audio, pipeline.sample_rate, request.waveform(i))
    if issue:
        err.print(issue, style="yellow", soft_wrap=True)
    for file in files:
        out.print(str(file), soft_wrap=True)


def prompt_values(assignments: list[str], conditioner: Conditioner | None) -> dict[str, Any]:
    """Parse `key=value` words as fields of a prompt. Raises InvalidValue for one that the conditioner does not read."""
    from codecdiff.conditioners import parse_fields

    return parse_fields(parse_assignments("--field", assignments, "bpm=120"), conditioner)


def parse_controls(assignments: Sequence[str]) -> dict[str, str]:
    """Parse `name=FILE` words as the controls of a prompt. Raises InvalidValue for others and for a name twice."""
    return parse_assignments("--control", assignments, "chroma=song.wav")


def parse_assignments(option: str, words: Sequence[str], example: str) -> dict[str, str]:
    """Parse the `key=value` words of an option. Raises InvalidValue for others and for a key twice."""
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value) or key in values:
            raise InvalidValue(f"Invalid {option} '{word}': expected NAME=VALUE, each name once, as in {example}.")
        values[key] = value
    return values
