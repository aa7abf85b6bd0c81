"""What the tabs of the studio call: generation and editing within limits, each result a file with its command."""

from __future__ import annotations

import hashlib
import html
import json
import re
import secrets
import shlex
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio.utils import get_upload_folder

from codecdiff.conditioners import parse_fields
from codecdiff.data.audio import read_audio, seconds_of
from codecdiff.errors import InvalidValue, UserError
from codecdiff.pipeline import (
    AnyEdit,
    Edit,
    EditMask,
    Extend,
    GenerationInterrupted,
    GenerationRequest,
    Inpaint,
    Pipeline,
    PipelineOutput,
    Refine,
    Restore,
    Vary,
)
from codecdiff_studio.plots import plot_spectrogram

KEEP_S = 3600.0  # how long files stay after they were last used
OPTIONS = {  # of GenerationConfig, which commands have too
    "audio_length_in_s",
    "guidance_scale",
    "loop",
    "loudness",
    "negative_prompt",
    "num_inference_steps",
    "num_waveforms_per_prompt",
    "quality",
    "seed",
}
Progress = Callable[..., Any]  # that of gradio: a pair of steps done and all steps, and what is done


@dataclass(frozen=True)
class Limits:
    """What one request may ask for: seconds of audio, waveforms, steps, letters of its texts, seconds of a control."""

    seconds: float = 180.0
    waveforms: int = 4
    queue: int = 64
    steps: int = 200
    letters: int = 2000
    control_seconds: float = 600.0


@dataclass(frozen=True)
class Waveform:
    """A generated or uploaded file: its title, the command that generates it again, its seed, and codes (k, l)."""

    file: Path
    title: str
    command: str = ""
    codes: Any = field(default=None, compare=False)
    seconds: float = 0.0
    seed: int | None = None
    prompt: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class Studio:
    """Models by name, the first the one to generate and edit with, and a folder for what they generate."""

    models: Mapping[str, Pipeline]
    folder: Path
    limits: Limits = Limits()
    stopped: set[str] = field(default_factory=set)  # sessions, until they run again
    closed: set[str] = field(default_factory=set)  # sessions of tabs, whose requests may still wait

    @property
    def model(self) -> str:
        """Name of the first model."""
        return next(iter(self.models))

    @property
    def pipeline(self) -> Pipeline:
        """The first model."""
        return self.models[self.model]

    def generate(
        self, session: str, progress: Progress, prompt: Mapping[str, Any], options: Mapping[str, Any], model: str = ""
    ) -> list[Waveform]:
        """Generate waveforms. `options` are fields of GenerationConfig; without a seed, one is drawn."""
        name = model or self.model
        if name not in self.models:
            raise InvalidValue(f"No model '{name}' in this studio: expected one of {', '.join(self.models)}.")
        options = self._checked(self.models[name], prompt, options, is_edit=False)
        if not any(prompt.values()):
            note = "Without a prompt, the model decides what it plays. Describe the music in the field Prompt."
            warnings.warn(note, stacklevel=2)
        result = self.models[name](dict(prompt), callback_on_step_end=self._callback(session, progress), **options)
        return self._save(result, name, session)

    def edit(
        self,
        session: str,
        progress: Progress,
        source: Waveform,
        edit: Edit,
        prompt: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Waveform:
        """Generate a part of a waveform again."""
        if isinstance(edit, Extend):
            self._check_seconds(source.seconds + edit.seconds)
        options = self._checked(self.pipeline, prompt, options, is_edit=True)
        for used in (source.file, source.file.parent):
            used.touch()  # it is kept as long as it is used
        callback = self._callback(session, progress)
        result = self.pipeline.edit(source.file, edit, dict(prompt), callback_on_step_end=callback, **options)
        return self._save(result, self.model, session, source.file.name)[0]

    def encode(self, file: Path) -> Waveform:
        """Encode a file for editing. Raises BadAudio, and InvalidValue if it is longer than the limit."""
        pipe = self.pipeline
        self._check_seconds(round(seconds_of(file), 2))
        audio = read_audio(file, pipe.sample_rate, pipe.codec.channels, seconds=self.limits.seconds + 1)
        seconds = audio.shape[-1] / pipe.sample_rate
        self._check_seconds(seconds)
        codes = EditMask.from_audio(pipe.codec, audio[None], pipe.target).codes
        return Waveform(file, file.name, codes=codes[0].cpu().numpy(), seconds=seconds)

    def _checked(
        self, pipeline: Pipeline, prompt: Mapping[str, Any], options: Mapping[str, Any], *, is_edit: bool
    ) -> dict[str, Any]:
        """Return options within the limits, with a seed. Raises InvalidValue for others, and for prompts with files."""
        limits = self.limits
        values = {"seed": secrets.randbelow(10**6), **options}
        config = pipeline.generation_config.merge(**cast(Any, values))
        if others := sorted(values.keys() - OPTIONS):
            raise InvalidValue(f"Invalid option '{others[0]}': the studio takes {', '.join(sorted(OPTIONS))}.")
        fields = {name: value for name, value in prompt.items() if name != "controls"}
        if files := [name for name, value in fields.items() if name == "audio" or isinstance(value, Mapping)]:
            raise InvalidValue(f"Invalid {files[0]}: a prompt of the studio names no files; expected text or numbers.")
        self._check_controls(prompt.get("controls", {}))
        if not is_edit:
            self._check_seconds(config.audio_length_in_s)
        for name, most in (("num_waveforms_per_prompt", limits.waveforms), ("num_inference_steps", limits.steps)):
            if (getattr(config, name) or 0) > most:
                raise InvalidValue(f"Invalid {name}={values[name]}: the studio allows at most {most}.")
        if not isinstance(config.negative_prompt, str):  # a mapping could name files of this machine
            raise InvalidValue(f"Invalid negative_prompt={config.negative_prompt}: the studio takes a text.")
        letters = sum(len(str(each)) for each in (*fields.values(), config.negative_prompt))
        if letters > limits.letters:
            raise InvalidValue(f"The texts have {letters:,} letters: the studio allows at most {limits.letters:,}.")
        return values

    def _check_controls(self, files: Mapping[str, str]) -> None:
        """Raise InvalidValue for uploads that are too long as controls; others are kept as long as they are used."""
        for name, file in files.items():
            if (seconds := seconds_of(Path(file))) > self.limits.control_seconds:
                raise InvalidValue(
                    f"The control {name} has {seconds:g} s: the studio allows at most {self.limits.control_seconds:g}."
                )
            Path(file).touch()

    def _check_seconds(self, seconds: float) -> None:
        if seconds > self.limits.seconds:
            raise InvalidValue(
                f"Audio of {seconds:g} s is longer than the {self.limits.seconds:g} s that the studio allows: shorten "
                "it, or start the studio with a larger --max-seconds."
            )

    def _callback(self, session: str, progress: Progress) -> Callable[..., None]:
        self.stopped.discard(session)
        if session in self.closed:
            raise InvalidValue("The tab of this request was closed. Reload the page.")

        def on_step_end(pipe: Pipeline, step: int, timestep: Any, values: Mapping[str, Any]) -> None:
            progress((step + 1, pipe.num_timesteps), desc=f"Stage {values['stage']}", unit="steps")
            if session in self.stopped:
                pipe.interrupt()

        return on_step_end

    def _save(self, result: PipelineOutput, model: str, session: str, source: str = "") -> list[Waveform]:
        """Write waveforms with their spectrograms into a folder of their own, and remove what is too old."""
        folder = self._folder_of(session) / secrets.token_hex(8)
        folder.mkdir(parents=True)
        for old in self.folder.glob("sessions/*/*"):
            if time.time() - old.stat().st_mtime > KEEP_S:
                shutil.rmtree(old, ignore_errors=True)
        stem, count = f"{Path(model).name}-{result.generation_config.seed}", len(result.audios)
        waveforms = []
        for i, file in enumerate(result.save(folder / (f"{stem}-{{n}}.flac" if count > 1 else f"{stem}.flac"))):
            command = command_of(result.requests[0], self.models[model], model, source, count)
            plot_spectrogram(result.audios[i].numpy(), result.sampling_rate, file.with_suffix(".png"))
            seconds, codes = result.audios.shape[-1] / result.sampling_rate, result.codes[i].numpy()
            seed = result.generation_config.seed
            prompt = result.requests[i].prompt
            waveforms.append(Waveform(file, f"Take {i + 1}", command, codes, seconds, seed, prompt))
        return waveforms

    def _folder_of(self, session: str) -> Path:
        """Return the folder of a session. Its name is a hash: clients choose what their session is called."""
        return self.folder / "sessions" / hashlib.sha256(session.encode()).hexdigest()[:32]

    def stop(self, request: gr.Request) -> None:
        """Stop what a session runs, at the end of its current step."""
        self.stopped.add(str(request.session_hash))

    def close(self, request: gr.Request) -> None:
        """Stop what the session of a closed tab runs, drop what waits, and delete its files."""
        self.stop(request)
        self.closed.add(str(request.session_hash))
        shutil.rmtree(self._folder_of(str(request.session_hash)), ignore_errors=True)


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show mistakes of users as messages of the page, and what the pipeline warns of as notes; both are escaped.

    They end the block, as a run does that the user stopped: with an error, Gradio would mark every field of the tab.
    """
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except GenerationInterrupted as stop:
            gr.Info(_shown(stop))
        except UserError as error:
            gr.Warning(_shown(error))
        finally:
            for note in dict.fromkeys(_shown(note.message) for note in notes):
                gr.Warning(note)


@contextmanager
def errors_of_api() -> Iterator[list[str]]:
    """Pass mistakes of users to the programs that made them, as text; yields what the pipeline warns of, at the end."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield notes
        except UserError as error:
            raise gr.Error(_without_copies(error), print_exception=False) from error
    notes += [_without_copies(note.message) for note in caught]


def _shown(message: object) -> str:
    """Return the HTML of a message."""
    return html.escape(_without_copies(message))


def _without_copies(message: object) -> str:
    """Return a message in which uploads have their names and not the places of their copies."""
    copies = re.escape(get_upload_folder()) + r"[\\/][0-9a-f]+[\\/]"
    return re.sub(copies, "", str(message))


def new_prompt(pipeline: Pipeline, text: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prompt of a text and other fields, as those of `--field`; empty ones are absent.

    Raises InvalidValue for a field that the model does not read.
    """
    if "text" in fields:
        raise InvalidValue("Invalid field 'text': it is the prompt.")
    if "controls" in fields:
        raise InvalidValue("Invalid field 'controls': the page takes their files, and programs `codecdiff generate`.")
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v not in (None, "")}
    return {"text": text or "", **parse_fields(texts, pipeline.conditioner)}


def command_of(
    request: GenerationRequest, pipeline: Pipeline, model: str, source: str = "", num_waveforms: int = 1
) -> str:
    """Return the command that generates the same, from what was recorded, without options that are the model's own."""
    generation, own = request.generation, pipeline.generation_config
    prompt = {key: value for key, value in request.prompt.items() if value not in (None, "")}
    text, controls = str(prompt.pop("text", "")), prompt.pop("controls", {})
    words: list[Any] = ["codecdiff", *_edit_words(request.edit, source)] if request.edit else ["codecdiff", "generate"]
    is_word = not request.edit and not text.startswith("-")
    words += ["--prompt", text] if request.edit else [text] if is_word else []
    words += ["--model", model, "--seed", generation.seed]
    words += [] if request.edit else ["--seconds", f"{generation.audio_length_in_s:g}"]
    for name in ("num_inference_steps", "negative_prompt", "loudness", "quality"):
        value = getattr(generation, name, None)
        if value not in (None, getattr(own, name, None)) and not (request.edit and name == "loudness"):
            words += [f"--{name.replace('_', '-')}", value]
    scale = generation.guidance_scale
    for each in [f"{k}={v:g}" for k, v in scale.items()] if isinstance(scale, Mapping) else [scale]:
        words += ["--guidance-scale", each] if each is not None else []
    words += [word for key, value in prompt.items() for word in ("--field", f"{key}={_field_text(value)}")]
    words += [word for name, file in controls.items() for word in ("--control", f"{name}={Path(file).name}")]
    words += ["--num-waveforms", num_waveforms] if num_waveforms > 1 else []
    words += ["--loop"] if generation.loop and not own.loop else []
    words += [] if request.edit or is_word else ["--", text]
    return shlex.join(map(str, words))


def _field_text(value: Any) -> str:
    """Return the text of a field that `--field` parses to the same value."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False)


def _edit_words(edit: AnyEdit, source: str) -> Sequence[Any]:
    """Return the name of an edit's command, its source and its options."""
    options: list[Any] = []
    match edit:
        case Refine():
            options = ["--keep", ",".join(map(str, edit.keep))]
        case Inpaint():
            options = [word for start, stop in edit.regions for word in ("--from", f"{start:g}", "--to", f"{stop:g}")]
            options += ["--levels", ",".join(map(str, edit.levels))] if edit.levels is not None else []
        case Extend():
            options = ["--seconds", f"{edit.seconds:g}"]
        case Vary():
            options = ["--strength", f"{edit.strength:g}"]
        case Restore():
            options = ["--levels", edit.levels]
    return [edit.name, source, *options]
