"""The result of a generation: audio to play, save and compute with."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from torch import Tensor

from codecdiff.data.audio import write_audio
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Prompt, prompt_fields
from codecdiff.pipeline.generation import GenerationConfig


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
