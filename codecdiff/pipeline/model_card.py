"""The model card: what a stranger should know before using a model, from what its folder records."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from codecdiff.files import atomic_write_text
from codecdiff.pipeline.checkpoint import read_spec

MARK = "<!-- written by codecdiff; remove this line to keep your own words -->"


def card(folder: Path | str) -> str:
    """Give the card of a model folder as Markdown with the header that the Hugging Face hub reads."""
    folder = Path(folder)
    spec = read_spec(folder)
    files = {name: folder / name / "stage.json" for name in spec["stages"]}
    stages = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
    return "\n".join([*_header(spec), *_parts(spec), *_training(spec, stages), *_use(folder)]) + "\n"


def write_card(folder: Path | str) -> None:
    """Write the card of a model folder as its README.md, unless somebody wrote one by hand."""
    file = Path(folder) / "README.md"
    if not file.exists() or MARK in file.read_text(encoding="utf-8"):
        atomic_write_text(file, card(folder))


def add_scores(folder: Path | str, index: Mapping[str, Any]) -> None:
    """Put a `model-index` into the header of a model folder's card, in the place of an earlier one.

    A card is written first if there is none. Raises ValueError if what there is has no header of YAML.
    """
    file = Path(folder) / "README.md"
    if not file.exists():
        write_card(folder)
    found = re.match(r"---\n(.*?)^---\n", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    header = yaml.safe_load(found[1]) if found else None
    if not found or not isinstance(header, dict):
        raise ValueError(f"'{file}' begins with no header between lines of ---, so there is no place for scores.")
    text = yaml.safe_dump({**header, **index}, sort_keys=False, allow_unicode=True)
    atomic_write_text(file, f"---\n{text}---\n{file.read_text(encoding='utf-8')[found.end() :]}")


def command(launcher: str, words: Sequence[str]) -> str:
    """Give a command line as it was typed, but for the absolute folders of the machine it was typed on."""
    script, *rest = (re.sub(r"(?<![\w.])/(?:[^/\s]+/)*", "", word) for word in words)
    return f"{launcher} {shlex.join([f'recipes/{Path(script).name}', *rest])}"


def _header(spec: dict[str, Any]) -> list[str]:
    lines = ["---", "library_name: codecdiff", "pipeline_tag: text-to-audio"]
    return [*lines, "---", MARK, "", "# A codec diffusion model", ""]


def _parts(spec: dict[str, Any]) -> list[str]:
    described = {kind: json.dumps(spec[kind]).replace("|", "\\|") for kind in ("codec", "splitter", "conditioner")}
    rows = [f"| {kind} | `{text}` |" for kind, text in described.items()]
    return ["| part | configuration |", "|---|---|", *rows, ""]


def _training(spec: dict[str, Any], stages: dict[str, Any]) -> list[str]:
    data = spec["data"]
    shares = [f"{name} ({hours:g} hours)" for name, hours in data.get("license_hours", {}).items()]
    licences = ", ".join(shares or data.get("licenses", [])) or "not recorded"
    size = f"{data.get('tracks', 0)} tracks, {data.get('hours', 0)} hours" if data else "not recorded"
    lines = ["## Training", "", f"Data: {size}. Licences of the tracks: {licences}.", ""]
    for name, stage in stages.items():
        facts = dict(stage["training"])
        typed, imported = facts.pop("command", None), facts.pop("imported", None)
        origin = f"Imported from `{imported}`" if imported else f"Trained with `{json.dumps(facts)}`"
        lines += [
            f"**{name}**: denoiser `{json.dumps(stage['denoiser'])}`, sampled with {stage['sampler']} in "
            f"{stage['steps']} steps at guidance {_weights(stage['guidance'])}. {origin}.",
            "",
        ]
        if typed:
            lines += ["```", typed, "```", ""]
    return lines


def _weights(guidance: Any) -> str:
    """Write guidance in words: one weight, or one of each condition."""
    if not isinstance(guidance, Mapping):
        return str(guidance)
    return ", ".join(f"{name}={weight}" for name, weight in guidance.items())


def _use(folder: Path) -> list[str]:
    return ["## Use", "", "```", f'codecdiff generate "PROMPT" --model {folder.name} -o out.wav', "```"]
