"""The options of a generation, and its result."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import soundfile
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from codecdiff.config.parts import did_you_mean
from codecdiff.config.schema import Guidance
from codecdiff.data.audio import write_audio
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Prompt, prompt_fields

OTHER_NAMES = {  # what an option is called elsewhere
    "audio_end_in_s": "audio_length_in_s",
    "cfg_scale": "guidance_scale",
    "duration": "audio_length_in_s",
    "guidance": "guidance_scale",
    "negative": "negative_prompt",
    "num_samples": "num_waveforms_per_prompt",
    "seconds": "audio_length_in_s",
    "steps": "num_inference_steps",
}
HINTS = {"seed": " Samples of one call differ by themselves: num_waveforms_per_prompt=2."}


class UnexpectedOption(InvalidValue, TypeError):
    """A keyword argument that does not exist."""


class GenerationOptions(TypedDict, total=False):
    """The fields of `GenerationConfig` as keyword arguments; None leaves a field as it is."""

    audio_length_in_s: float | None
    num_inference_steps: int | None
    guidance_scale: Guidance | None
    negative_prompt: Prompt | None
    num_waveforms_per_prompt: int | None
    seed: int | None
    first_sample_index: int | None
    batch_size: int | None


class GenerationConfig(BaseModel):
    """Options of generation, in the words of diffusers. A model folder keeps its own in generation_config.json.

    audio_length_in_s: duration; that of an edit follows from its source.
    num_inference_steps, guidance_scale: None for each stage's own.
    negative_prompt: guided away from, in place of the empty prompt.
    num_waveforms_per_prompt: samples that differ in their noise.
    first_sample_index: index of the first sample; every sample has its own noise by the seed and its index.
    batch_size: samples that are computed at once, which does not change them.

    Example:
        >>> from codecdiff import GenerationConfig
        >>> GenerationConfig(num_inference_steps=20).merge(seed=7, guidance_scale=None).seed
        7

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    audio_length_in_s: float = Field(default=10.0, gt=0, le=3600)
    num_inference_steps: int | None = None
    guidance_scale: Guidance | None = None
    negative_prompt: Prompt = ""
    num_waveforms_per_prompt: PositiveInt = 1
    seed: NonNegativeInt = 0
    first_sample_index: NonNegativeInt = 0
    batch_size: PositiveInt = 16

    def merge(self, **overrides: Unpack[GenerationOptions]) -> Self:
        """Return these options, replaced by those that are not None.

        Raises UnexpectedOption for a name that is not a field, and InvalidValue for a value that a field cannot have.
        """
        names = list(type(self).model_fields)
        if unknown := next((name for name in overrides if name not in names), None):
            hint = did_you_mean(OTHER_NAMES.get(unknown, unknown), names) or f" Options: {', '.join(names)}."
            raise UnexpectedOption(f"Unexpected option '{unknown}'.{hint}")
        values = {name: value for name, value in overrides.items() if value is not None}
        try:
            return type(self)(**{**dict(self), **values}) if values else self
        except ValidationError as error:
            issue = error.errors()[0]
            name, message = str(issue["loc"][0]), issue["msg"][:1].lower() + issue["msg"][1:]
            raise InvalidValue(f"Invalid {name}={values[name]!r}: {message}.{HINTS.get(name, '')}") from error


@dataclass(frozen=True, eq=False, repr=False)
class PipelineOutput:
    """Generated audio. In a notebook it shows a player for each waveform.

    audios: (n, ch, t) float32 in [-1, 1], on the CPU; the waveforms of one prompt follow each other.
    codes: (n, k, l), on the CPU.
    sampling_rate: Hz.
    prompts: the prompt of each waveform.
    generation_config: the options it was generated with.
    """

    audios: Tensor
    codes: Tensor
    sampling_rate: int
    prompts: Sequence[Prompt]
    generation_config: GenerationConfig

    def save(self, pattern: Path | str = "sample-{n}.wav") -> list[Path]:
        """Write every waveform to a file, `{n}` in its name counting from 1, and return the files.

        The suffix says the format: .wav, .flac, .ogg or .mp3. Existing files are replaced. Raises InvalidValue if
        several waveforms would have one name, and for a suffix that is not a format.

        Example:
            >>> import codecdiff
            >>> pipe = codecdiff.load("starter")
            >>> out = pipe("a slow waltz", audio_length_in_s=1, num_inference_steps=2, num_waveforms_per_prompt=2)
            >>> [file.name for file in out.save("waltz-{n}.wav")]
            ['waltz-1.wav', 'waltz-2.wav']

        """
        if len(self.audios) > 1 and "{n}" not in str(pattern):
            raise InvalidValue(f"{len(self.audios)} waveforms cannot all be '{pattern}': write 'sample-{{n}}.wav'.")
        files = [Path(str(pattern).replace("{n}", str(i + 1))) for i in range(len(self.audios))]
        for file, audio in zip(files, self.audios, strict=True):
            write_audio(file, audio, self.sampling_rate)
        return files

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(getattr(self, name).shape)}" for name in ("audios", "codes"))
        return f"PipelineOutput({shapes}, sampling_rate={self.sampling_rate})"

    def _repr_html_(self) -> str:
        """Return a player for each waveform, with its prompt."""
        pairs = zip(self.prompts, self.audios, strict=True)
        return "\n".join(_player(prompt_fields(prompt), audio, self.sampling_rate) for prompt, audio in pairs)


def _player(prompt: dict[str, Any], audio: Tensor, sampling_rate: int) -> str:
    stream = io.BytesIO()
    soundfile.write(stream, audio.T.numpy(), sampling_rate, format="WAV", subtype="PCM_16")
    fields = {name: value for name, value in prompt.items() if name != "audio" and value not in (None, "")}
    label = html.escape(", ".join(str(v) if name == "text" else f"{name} {v}" for name, v in fields.items()) or "-")
    source = f"data:audio/wav;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return (
        f'<figure><figcaption>{label}</figcaption><audio controls aria-label="{label}" src="{source}"></audio></figure>'
    )
