"""The model card: what a user should know before using a model, from the facts its folder records."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codecdiff.files import atomic_write_text, read_text
from codecdiff.pipeline.checkpoint import read_config
from codecdiff.pipeline.stage_folder import STAGE_FILE, read_stage_config

MARK = "<!-- written by codecdiff; remove this line to keep your own words -->"


def render_model_card(folder: Path | str) -> str:
    """Return the model card of a folder as Markdown, with the header that the Hugging Face hub reads."""
    folder = Path(folder)
    spec = read_config(folder)
    stages = {name: folder / name for name in spec["stages"] if (folder / name / STAGE_FILE).exists()}
    header = ["---", "library_name: codecdiff", "pipeline_tag: text-to-audio", "---", MARK, ""]
    training = _training(spec["data"], {name: read_stage_config(home) for name, home in stages.items()})
    use = ["## Use", "", *_block(f'codecdiff generate "PROMPT" --model {shlex.quote(folder.name)} -o out.wav')]
    rows = [f"| {kind} | {_code(json.dumps(spec[kind]))} |" for kind in ("codec", "splitter", "conditioner")]
    parts = ["| part | configuration |", "|---|---|", *rows, ""]
    return "\n".join([*header, "# A codec diffusion model", "", *parts, *training, *use]) + "\n"


def write_model_card(folder: Path | str) -> None:
    """Write the model card of a folder as its README.md, unless it was written by hand."""
    file = Path(folder) / "README.md"
    if not file.exists() or MARK in read_text(file):
        atomic_write_text(file, render_model_card(folder))


def command_line(words: Sequence[str]) -> str:
    """Return a command line that trains as it was typed, without the absolute folders of the machine."""
    program, *arguments = (re.sub(r"(?<![\w.])/(?:[^/\s]+/)*", "", word) for word in words)
    name = Path(program).name
    launcher = ["accelerate", "launch", f"recipes/{name}"] if name.endswith(".py") else [name]
    return shlex.join([*launcher, *arguments])


def _training(data: dict[str, Any], stages: dict[str, Any]) -> list[str]:
    hours = [f"{_text(name)} ({hours:g} hours)" for name, hours in data.get("license_hours", {}).items()]
    licenses = ", ".join(hours or map(_text, data.get("licenses", []))) or "not recorded"
    size = f"{data.get('tracks', 0)} tracks, {data.get('hours', 0)} hours" if data else "not recorded"
    lines = ["## Training", "", f"Data: {size}. Licenses of the tracks: {licenses}.", ""]
    for name, stage in stages.items():
        facts = dict(stage["training"])
        command, imported = facts.pop("command", None), facts.pop("imported", None)
        scale = stage["guidance_scale"]
        if isinstance(scale, Mapping):
            scale = ", ".join(f"{_text(condition)}={weight}" for condition, weight in scale.items())
        training = f"Imported from {_code(imported)}" if imported else f"Trained with {_code(json.dumps(facts))}"
        lines += [
            f"**{name}**: denoiser {_code(json.dumps(stage['denoiser']))}, sampled with {_text(stage['scheduler'])} in "
            f"{stage['num_inference_steps']} steps, guidance scale {scale}. {training}.",
            "",
        ]
        if command:
            lines += _block(command)
    return lines


# Names and settings come from anyone: none of them is Markdown or HTML.


def _text(value: Any) -> str:
    """Return a value as text of one line."""
    return re.sub(r"([\\`*_\[\]<>&|~])", r"\\\1", " ".join(str(value).split())[:500])


def _code(value: Any) -> str:
    """Return a value as code of one line, in a table too."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    fence = _fence(text, 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _block(value: Any) -> list[str]:
    """Return a value as lines of code."""
    fence = _fence(str(value), 3)
    return [fence, *str(value).splitlines(), fence, ""]


def _fence(text: str, least: int) -> str:
    """Return more backticks than any in a text that follow each other."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])
