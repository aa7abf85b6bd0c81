"""Everything that a generated audio file follows from, kept in it as a comment, so that it can be generated again.

A comment is untrusted input: it is validated strictly and names neither code nor files. Generating again takes a model
that the user names, whose fingerprint must be that of the comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from torch import Tensor

from codecdiff import __version__
from codecdiff.config.schema import Guidance, SamplingConfig
from codecdiff.data.audio import MAX_SECONDS, read_comment
from codecdiff.data.audio_prompt import audio_prompt_record
from codecdiff.data.legacy import upgrade_request
from codecdiff.data.loudness import make_playable
from codecdiff.errors import InvalidValue
from codecdiff.files import parse_json, sha256
from codecdiff.pipeline.adapters import AdapterRecord
from codecdiff.pipeline.editing import AnyEdit, Extend
from codecdiff.pipeline.generation import MAX_BATCH, GenerationConfig
from codecdiff.pipeline.pipeline import Pipeline, StepCallback


class StageSampling(BaseModel):
    """How one stage was sampled."""

    model_config = ConfigDict(extra="forbid")

    scheduler: str
    num_inference_steps: int
    guidance_scale: Guidance
    guidance_method: str | None = None  # this and the next two where guidance is not plain
    guidance_rescale: float | None = None
    guidance_interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, sampling: SamplingConfig) -> Self:
        """Return what is worth saying of a stage's sampling."""
        plain, values = SamplingConfig(), {name: getattr(sampling, name) for name in cls.model_fields}
        return cls(**{n: v for n, v in values.items() if n in tuple(cls.model_fields)[:3] or v != getattr(plain, n)})


class GenerationRequest(BaseModel):
    """What to generate with a model; with `edit`, from which source.

    codecdiff: version of the library.
    model: fingerprint of the model's folder; empty for a model without one.
    model_name: what the model was called, for readers.
    adapters: those that were loaded, which are part of the fingerprint.
    stages: how every stage was sampled, for readers: it follows from the model and `generation`.
    prompt: fields of the prompt.
    generation: options of a call; `first_sample_index` is the index of this sample, and an edit has no duration.
    source: SHA-256 of the source's file.
    batch: first index and number of the samples that it was computed with, on which its last bits depend.
    """

    model_config = ConfigDict(extra="forbid")

    codecdiff: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,32}$")
    model: str = Field(pattern=r"^[0-9a-f]{32}$|^$")
    model_name: str = Field(default="", max_length=256)
    adapters: list[AdapterRecord] | None = None
    stages: dict[str, StageSampling] = Field(default_factory=dict)
    prompt: dict[str, Any]
    generation: GenerationConfig = GenerationConfig()
    edit: AnyEdit | None = None
    source: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    batch: tuple[NonNegativeInt, Annotated[int, Field(gt=1, le=MAX_BATCH)]] | None = None

    def comment(self) -> str:
        """Return the request as the comment of an audio file, in which hashes replace the audio of prompts."""
        generation = self.generation.merge(negative_prompt=_without_audio(self.generation.negative_prompt))
        portable = self.model_copy(update={"prompt": _without_audio(self.prompt), "generation": generation})
        return portable.model_dump_json(exclude_none=True)

    @classmethod
    def from_file(cls, file: Path | str) -> GenerationRequest:
        """Read the request from the comment of an audio file. Raises InvalidValue, and what `read_comment` raises."""
        text = read_comment(file)
        try:
            comment = json.dumps(upgrade_request(parse_json(text, "the comment")))
            request = cls.model_validate_json(comment, strict=True)
            if request.generation.num_waveforms_per_prompt != 1:
                raise ValueError("A file holds one sample.")
            first, count = request.batch or (request.generation.first_sample_index, 1)
            if not first <= request.generation.first_sample_index < first + count:
                raise ValueError("The sample is of its batch.")
        except ValueError as error:
            raise InvalidValue(f"'{file}' has no comment of codecdiff, or one that was edited.") from error
        if any(_names_file(prompt) for prompt in (request.prompt, request.generation.negative_prompt)):
            raise InvalidValue(f"'{file}' names a file of another machine: its comment was edited.")
        return request

    @classmethod
    def for_model(cls, pipeline: Pipeline, generation: GenerationConfig, **fields: Any) -> GenerationRequest:
        """Return the request to a model; `fields` are its others."""
        stages = {stage.name: StageSampling.of(stage.sampling) for stage in pipeline.sampled_stages(generation)}
        name = pipeline.name
        name = "/".join(Path(name).resolve().parts[-2:]) if name and Path(name).exists() else name
        adapters = [adapter.record for adapter in pipeline.adapters] or None
        metadata = {"codecdiff": __version__, "model": pipeline.fingerprint or "", "model_name": name, "stages": stages}
        return cls(**metadata, adapters=adapters, generation=generation, **fields)

    def waveform(self, i: int) -> GenerationRequest:
        """Return the request of waveform `i` alone."""
        generation, first = self.generation, self.generation.first_sample_index
        single = generation.merge(num_waveforms_per_prompt=1, first_sample_index=first + i)
        start = i - i % generation.batch_size
        count = min(generation.batch_size, generation.num_waveforms_per_prompt - start)
        batch = (first + start, count) if count > 1 else self.batch
        return self.model_copy(update={"generation": single, "batch": batch})

    def playable(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return decoded audio (ch, t) at the requested level; an edit keeps that of its source."""
        level = self.generation.loudness
        return make_playable(audio, sample_rate, level if self.edit is None or level == "off" else None)

    def check_duration(self, seconds: float) -> None:
        """Raise InvalidValue if an audio file of `seconds` cannot be the result: a comment could request hours."""
        if seconds > MAX_SECONDS:
            raise InvalidValue(f"The file has {seconds / 3600:.1f} h, and at most {MAX_SECONDS / 3600:g} is generated.")
        edit, length = self.edit, self.generation.audio_length_in_s
        requested = length if edit is None else edit.seconds if isinstance(edit, Extend) else 0.0
        if requested > seconds + 0.01:
            raise InvalidValue(f"The comment requests {requested:g} s, but the file has {seconds:g} s: it was edited.")

    def bounded(self, seconds: float) -> tuple[GenerationRequest, str]:
        """Return the request without a batch that a comment should not cause, and a sentence on what that changes.

        `seconds` is the length of the file: all samples of the batch together may have MAX_SECONDS.
        """
        count = self.batch[1] if self.batch else 1
        if count == 1 or count * seconds <= MAX_SECONDS:
            return self, ""
        issue = (
            f"It was computed beside {count - 1:,} others, {count * seconds / 3600:.1f} h in all, and is now computed "
        )
        return self.model_copy(update={"batch": None}), f"{issue}alone: its last bits may differ."

    def check_model(self, pipeline: Pipeline) -> None:
        """Raise ValueError unless the model, with its adapters, is the one of the request."""
        if pipeline.fingerprint != self.model:
            texts = [
                f"--adapter {a.name}:{','.join(f'{n}={w:g}' for n, w in a.weights.items())}"
                for a in self.adapters or ()
            ]
            hint = f"Name the folder of that model with --model{''.join(f', and {text}' for text in texts)}"
            hint = f"{hint}; it was made without --adapter" if pipeline.adapters and not texts else hint
            raise InvalidValue(
                f"It was generated by the model {self.model}, and this one is {pipeline.fingerprint}: the result would "
                f"differ. {hint}."
            )

    def check_source(self, file: Path | None) -> None:
        """Raise ValueError unless the file is the source of the request."""
        if self.source and (file is None or sha256(file) != self.source):
            problem = "but --source is missing" if file is None else f"but '{file}' is another file"
            raise InvalidValue(f"It was generated from a source with SHA-256 {self.source}, {problem}: --source FILE.")

    def with_controls(self, files: Mapping[str, Path | str]) -> GenerationRequest:
        """Return the request with files in place of the hashes of its controls. Raises InvalidValue for other files."""
        records = self.prompt.get("controls") or {}
        if extra := sorted(files.keys() - records):
            raise InvalidValue(f"It was generated without the control {extra[0]}: leave out --control {extra[0]}.")
        parts = {}
        for name, record in records.items():
            file, expected = Path(files.get(name, "")), record.get("sha256")
            if not expected:
                raise InvalidValue(
                    f"Its control {name} came from samples in memory: it can be generated in Python only."
                )
            if not file.is_file() or sha256(file) != expected:
                problem = f"'{file}' is another file, or missing" if name in files else "--control is missing"
                raise InvalidValue(
                    f"Its control {name} is of a file with SHA-256 {expected}, but {problem}: --control {name}=FILE."
                )
            parts[name] = {"file": str(file), **{key: record[key] for key in ("start", "seconds") if key in record}}
        return self.model_copy(update={"prompt": {**self.prompt, "controls": parts}}) if parts else self

    def generate(
        self, pipeline: Pipeline, source: Path | None = None, *, callback_on_step_end: StepCallback | None = None
    ) -> Iterator[Tensor]:
        """Yield the audio (ch, t) in [-1, 1] of every sample; the callback is that of `Pipeline.generate_codes`.

        The samples that one was computed with are computed again, so that its last bits are the same.
        """
        own, options = self.generation, self.generation
        if self.batch is not None:
            first, count = self.batch
            options = own.merge(first_sample_index=first, num_waveforms_per_prompt=count, batch_size=count)
        wanted = range(own.first_sample_index, own.first_sample_index + own.num_waveforms_per_prompt)
        if self.edit is None:
            seconds = options.audio_length_in_s
            mask, frames, samples = None, pipeline.frames(seconds), round(seconds * pipeline.sample_rate)
        else:
            if source is None:
                raise InvalidValue("An edit needs a source: an audio file.")
            mask, samples = self.edit.apply_to_audio(source, pipeline.codec, pipeline.target)
            mask, frames = mask.repeat(options.num_waveforms_per_prompt), mask.frames
        callback = callback_on_step_end
        every = pipeline.generate_codes([self.prompt], frames, options, edit=mask, callback_on_step_end=callback)
        for index, codes in enumerate(every, options.first_sample_index):
            if index in wanted:
                yield self.playable(pipeline.decode([codes], samples, loop=options.loop)[0], pipeline.sample_rate)


def _without_audio(prompt: Any) -> Any:
    """Return a prompt in which hashes replace its audio and that of its controls."""
    fields = dict(prompt) if isinstance(prompt, dict) else {}
    if fields.get("audio"):
        fields["audio"] = audio_prompt_record(fields["audio"])
    if fields.get("controls"):
        fields["controls"] = {name: audio_prompt_record(file) for name, file in fields["controls"].items()}
    return fields or prompt


def _names_file(prompt: Any) -> bool:
    """Return whether a prompt has audio, or controls, in another form than `_without_audio` writes."""
    fields = prompt if isinstance(prompt, dict) else {}
    audio, controls = fields.get("audio"), fields.get("controls") or {}
    if not isinstance(controls, dict):
        return True
    return any(not isinstance(record, dict) or "file" in record for record in (audio or {}, *controls.values()))
