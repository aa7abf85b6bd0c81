"""The result of a generation: audio to play, save and compute with."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from codecdiff.data.audio import keeps_comment, write_audio
from codecdiff.data.loudness import HIGHEST, true_peak
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Prompt, prompt_fields
from codecdiff.pipeline.generation import GenerationConfig
from codecdiff.pipeline.provenance import GenerationRequest

LOSSY = (".mp3", ".ogg", ".opus")


@dataclass(frozen=True, eq=False, repr=False)
class PipelineOutput:
    """Generated audio. In a notebook it shows a player for each waveform.

    audios: (n, ch, t) float32 in [-1, 1], on the CPU, at the requested loudness; the waveforms of one prompt follow
        each other.
    codes: (n, k, l), on the CPU.
    sampling_rate: Hz.
    prompts: the prompt of each waveform.
    generation_config: the options it was generated with.
    requests: all that each waveform follows from, which `save` writes into its file.
    """

    audios: Tensor
    codes: Tensor
    sampling_rate: int
    prompts: Sequence[Prompt]
    generation_config: GenerationConfig
    requests: Sequence[GenerationRequest]

    def save(self, pattern: Path | str = "sample-{n}.wav") -> list[Path]:
        """Write every waveform to a file, `{n}` in its name counting from 1, and return the files.

        The suffix says the format: .wav, .flac, .ogg or .mp3. The comment of a file says how it was generated, as
        `codecdiff inspect` shows. Existing files are replaced. Raises InvalidValue if several waveforms would have one
        name, and for a suffix that is not a format.

        Example:
            >>> import codecdiff
            >>> pipe = codecdiff.load("starter")
            >>> out = pipe("a slow waltz", audio_length_in_s=1, num_inference_steps=2, num_waveforms_per_prompt=2)
            >>> [file.name for file in out.save("waltz-{n}.wav")]
            ['waltz-1.wav', 'waltz-2.wav']

        """
        if len(self.audios) > 1 and "{n}" not in str(pattern):
            numbered = Path(pattern).with_stem(f"{Path(pattern).stem}-{{n}}")
            raise InvalidValue(f"{len(self.audios)} waveforms cannot all be '{pattern}': write '{numbered}'.")
        files = [Path(str(pattern).replace("{n}", str(i + 1))) for i in range(len(self.audios))]
        for file, audio, request in zip(files, self.audios, self.requests, strict=True):
            if issue := write_waveform(file, audio, self.sampling_rate, request):
                warnings.warn(issue, stacklevel=2)
        return files

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(getattr(self, name).shape)}" for name in ("audios", "codes"))
        return f"PipelineOutput({shapes}, sampling_rate={self.sampling_rate})"

    def _repr_html_(self) -> str:
        """Return a player for each waveform, with its prompt."""
        pairs = zip(self.prompts, self.audios, strict=True)
        return "\n".join(_player(prompt_fields(prompt), audio, self.sampling_rate) for prompt, audio in pairs)


def write_waveform(file: Path, audio: Tensor, sampling_rate: int, request: GenerationRequest) -> str:
    """Write generated audio (ch, t) with its request as the comment of the file; return why that is not possible.

    Unless its loudness is "off", audio whose peaks lossy coding raises beyond its limit is written again, softer.
    """
    comment = request.comment()
    has_room = keeps_comment(file, comment)
    attempts = 4 if file.suffix.lower() in LOSSY and request.generation.loudness != "off" else 1
    for attempt in range(attempts):
        write_audio(file, audio, sampling_rate, comment=comment if has_room else "")
        excess = coded_excess(file, audio) if attempt + 1 < attempts else 1.0
        if excess <= 1:
            break
        audio = audio / (excess * (1.02 + 0.04 * attempt))  # softer audio is coded otherwise: a bit more than enough
    if has_room:
        return ""
    size = f"{len(comment.encode()):,} bytes are too many for {file.suffix}"
    return f"{file} was written without its prompt and settings, whose {size}. Use .flac to keep them."


def coded_excess(file: Path, audio: Tensor) -> float:
    """Return by which factor the true peak of an audio file exceeds -1 dBTP, or full scale if that of `audio` does."""
    decoded = torch.from_numpy(soundfile.read(file, dtype="float32", always_2d=True)[0].T)
    limit = HIGHEST if float(true_peak(audio).max()) <= 1.001 * HIGHEST else 1.0
    return float(true_peak(decoded).max()) / limit


def _player(prompt: dict[str, Any], audio: Tensor, sampling_rate: int) -> str:
    stream = io.BytesIO()
    soundfile.write(stream, audio.T.numpy(), sampling_rate, format="WAV", subtype="PCM_16")
    fields = {name: value for name, value in prompt.items() if name != "audio" and value not in (None, "")}
    label = html.escape(", ".join(str(v) if name == "text" else f"{name} {v}" for name, v in fields.items()) or "-")
    source = f"data:audio/wav;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return (
        f'<figure><figcaption>{label}</figcaption><audio controls aria-label="{label}" src="{source}"></audio></figure>'
    )
