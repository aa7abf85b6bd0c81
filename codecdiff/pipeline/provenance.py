"""All that a piece of made audio follows from, kept with it as a comment, so that it can be made again.

A comment is a stranger's word: it is read strictly, names no code and no file, and decides nothing. Making again takes
a model that the user names, and its fingerprint has to be the one that is written there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from torch import Tensor

from codecdiff.config.schema import Config, Guidance
from codecdiff.data.audio import read_audio, read_comment
from codecdiff.data.audio_prompt import audio_prompt_record
from codecdiff.files import sha256
from codecdiff.pipeline.editing import AnyEdit, EditMask, Extend
from codecdiff.pipeline.pipeline import Pipeline


class Request(Config):
    """What to make with a model; with `edit`, out of which source.

    codecdiff: the version it is made with.
    model: fingerprint of the model's folder; empty for one that is in no folder.
    prompt, negative: fields of what is asked for, and of what to be guided away from.
    seconds: of what is generated; None with an edit, which follows its source.
    take: number of the first take, counted over all takes of a seed.
    steps, guidance: None for the model's own.
    source: SHA-256 of the source's file.
    """

    codecdiff: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,32}$")
    model: str = Field(pattern=r"^[0-9a-f]{32}$|^$")
    prompt: dict[str, Any]
    negative: dict[str, Any] = Field(default_factory=dict)
    seconds: float | None = Field(default=None, gt=0, le=3600)
    seed: int = Field(default=0, ge=0)
    take: int = Field(default=0, ge=0)
    steps: int | None = None
    guidance: Guidance | None = None
    edit: AnyEdit | None = None
    source: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    def comment(self) -> str:
        """Give the request as the comment of an audio file, in which hashes stand for audio that was asked with."""
        told = {"prompt": _told(self.prompt), "negative": _told(self.negative)}
        return self.model_copy(update=told).model_dump_json(exclude_none=True)

    @classmethod
    def of_file(cls, file: Path | str) -> Request:
        """Read the request from the comment of an audio file. Raises ValueError if it holds none."""
        try:
            told = cls.model_validate_json(read_comment(file), strict=True)
        except (ValidationError, RecursionError) as error:
            raise ValueError(
                f"'{file}' does not say how it was made: it holds no comment of codecdiff, or one that was changed."
            ) from error
        if any(_names_audio(prompt) for prompt in (told.prompt, told.negative)):
            raise ValueError(f"'{file}' names a file of the machine it was made on: its comment was changed.")
        return told

    def check_length(self, seconds: float) -> None:
        """Raise ValueError if a file that is `seconds` long cannot be what is asked for here: it may ask for hours."""
        asked = self.edit.seconds if isinstance(self.edit, Extend) else self.seconds
        if asked is not None and asked > seconds + 0.01:
            raise ValueError(f"It says that {asked:g} s were made, and is {seconds:g} s long: its comment was changed.")

    def check_model(self, pipeline: Pipeline) -> None:
        """Raise ValueError unless the model is the one the request names."""
        if pipeline.fingerprint != self.model:
            raise ValueError(
                f"It was made by the model {self.model}, and this one is {pipeline.fingerprint}: it would not come out "
                "the same. Name the folder of that model with --model."
            )

    def check_source(self, file: Path | None) -> None:
        """Raise ValueError unless the file is the source the request names."""
        if self.source and (file is None or sha256(file) != self.source):
            found = "none was given" if file is None else f"'{file}' is another file"
            raise ValueError(f"It was made out of a source with SHA-256 {self.source}, and {found}: --source FILE.")

    def make(self, pipeline: Pipeline, source: Path | None = None, *, takes: int = 1) -> Iterator[Tensor]:
        """Yield (ch, t) audio in [-1, 1] of every take."""
        options = {"seed": self.seed, "takes": takes, "first_take": self.take, "negative": self.negative}
        options |= {"steps": self.steps, "guidance": self.guidance}
        options["batch_size"] = 1  # beside others, a take differs from itself alone in its last bits
        if self.edit is None:
            seconds = self.seconds or 10.0
            codes = pipeline.generate_codes([self.prompt], pipeline.frames(seconds), **options)
            samples = round(seconds * pipeline.sample_rate)
        else:
            known, samples = self.known(pipeline, source)
            codes = pipeline.generate_codes([self.prompt], known.frames, known=known.repeated(takes), **options)
        for take in codes:
            yield pipeline.decode([take], samples)[0].clamp(-1, 1)

    def known(self, pipeline: Pipeline, source: Path | None) -> tuple[EditMask, int]:
        """Encode the source and apply the edit: what is known of one take, and how many samples it is long."""
        if source is None or self.edit is None:
            raise ValueError("An edit needs a source: an audio file.")
        codec, audio = pipeline.codec, read_audio(source, pipeline.sample_rate, pipeline.codec.channels)
        if isinstance(self.edit, Extend):  # the music goes on where it stops, not after the silence of a started frame
            audio = audio[:, : max(1, audio.shape[-1] // codec.hop_length) * codec.hop_length]
        known = EditMask.of_audio(codec, audio[None], pipeline.target)
        edited = self.edit.apply(known, codec)
        return edited, audio.shape[-1] + (edited.frames - known.frames) * codec.hop_length


def _told(prompt: dict[str, Any]) -> dict[str, Any]:
    """Give a prompt as a file may tell it."""
    return {**prompt, "audio": audio_prompt_record(prompt["audio"])} if prompt.get("audio") else prompt


def _names_audio(prompt: dict[str, Any]) -> bool:
    """Tell whether a prompt holds audio in another form than `_told` gives it."""
    audio = prompt.get("audio")
    return audio is not None and (not isinstance(audio, dict) or "file" in audio)
