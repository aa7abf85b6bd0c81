"""The clips of the gallery: shipped models generate them, from fixed prompts and seeds, when the site is built."""

from __future__ import annotations

import io
import tomllib
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import soundfile

ROOT = Path(__file__).parent.parent
SECONDS = 6.0
COMPRESSION = 0.6  # of Ogg Vorbis: about 64 kbit/s of mono
PROMPTS = {  # of each model: prompt -> seed
    "starter": {
        "a fast tune in G major on piano with drums": 1,
        "a slow waltz in C major on flute, 80 bpm": 2,
        "a funk tune on guitar with drums, 112 bpm": 3,
        "a slow piece in A minor for strings": 4,
        "a jazz tune on saxophone with bass and drums, 140 bpm": 5,
        "a calm piece in D minor on vibraphone": 6,
    }
}


@dataclass(frozen=True)
class Clip:
    """A generated clip.

    audio: an Ogg Vorbis file.
    spectrogram: the data URI of a picture.
    """

    prompt: str
    seed: int
    audio: bytes
    spectrogram: str


def shipped_models() -> list[str]:
    """Return the names of the models that distributions of this repository contain."""
    projects = [tomllib.loads(file.read_text("utf-8"))["project"] for file in ROOT.glob("plugins/*/pyproject.toml")]
    return sorted(name for each in projects for name in each.get("entry-points", {}).get("codecdiff.models", {}))


@cache  # while `mkdocs serve` builds again
def generate(model: str, seconds: float = SECONDS, count: int | None = None) -> tuple[Clip, ...]:
    """Generate the clips of a model, or the first `count` of them."""
    from codecdiff_eval.plots import spectrogram

    from codecdiff import Pipeline

    pipe, clips = Pipeline.from_pretrained(model), []
    for prompt, seed in list(PROMPTS[model].items())[:count]:
        out = pipe(prompt, audio_length_in_s=seconds, seed=seed)
        samples = out.audios[0].T.numpy()
        file = io.BytesIO()
        soundfile.write(file, samples, out.sampling_rate, format="OGG", subtype="VORBIS", compression_level=COMPRESSION)
        clips.append(Clip(prompt, seed, file.getvalue(), spectrogram(samples.mean(1), out.sampling_rate)))
    return tuple(clips)


def file_name(model: str, clip: Clip) -> str:
    """Return the name of a clip's file in the site."""
    return f"gallery/{model}-{clip.seed}.ogg"


def section(model: str, clips: tuple[Clip, ...]) -> str:
    """Return the part of the page about a model, in Markdown."""
    lines = [f"## {model}\n"]
    for clip in clips:
        label, name = escape(clip.prompt), file_name(model, clip)
        command = (
            f'codecdiff generate "{clip.prompt}" --model {model} --seconds {SECONDS:g} --seed {clip.seed} -o out.wav'
        )
        lines += [
            f"**{label}**\n",
            f'<img src="{clip.spectrogram}" alt="Spectrogram of: {label}" style="width: 100%; height: 8em">',
            f'<audio controls preload="none" style="width: 100%" src="{name}" aria-label="{label}"></audio>\n',
            f"```\n{command}\n```\n",
        ]
    return "\n".join(lines)


def files_and_page() -> tuple[dict[str, bytes], str]:
    """Return the files of all clips by their names in the site, and what the page shows of them, in Markdown."""
    models: dict[str, Any] = {model: generate(model) for model in shipped_models()}
    files = {file_name(model, clip): clip.audio for model, clips in models.items() for clip in clips}
    return files, "\n".join(section(model, clips) for model, clips in models.items())
