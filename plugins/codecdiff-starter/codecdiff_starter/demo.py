"""Measure a model trained on composed music and write the page that shows it.

python -m codecdiff_starter.demo runs/demo

reads `model/` and `music/` in that folder and writes `samples/`, `report.json` and `index.html` there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from codecdiff.data.audio import write_audio
from codecdiff.files import atomic_write_text
from codecdiff.pictures import number
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.training.trainer import read_logs
from codecdiff_starter import page
from codecdiff_starter.evaluation import (
    DEMO,
    SEED,
    SHIPPED,
    Example,
    Figure,
    evaluate,
    loss_figures,
    peak_memory,
)


def write_samples(folder: Path, examples: Sequence[Example], sample_rate: int) -> list[dict[str, Any]]:
    """Write examples as WAV to `samples/` in the folder, and say which is which."""
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    samples = []
    for example in examples:
        path = f"samples/{prompts.index(example.prompt):02d}-{example.kind}.wav"
        write_audio(folder / path, example.audio[None], sample_rate)
        samples.append({"prompt": example.prompt, "kind": example.kind, "unseen": example.unseen, "path": path})
    return samples


def finite(value: Any) -> Any:
    """Put None in the place of every number in a nest of mappings and lists that JSON cannot write."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(console: Console, figures: Sequence[Figure]) -> None:
    """Print the table of figures."""
    table = Table("figure", title="What it learned", title_justify="left")
    for name in ("measured", "95% interval", "target"):
        table.add_column(name, justify="right")
    table.add_column("")
    marks = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}
    for figure in figures:
        row = figure.row()
        cells = (figure.name, number(figure.value), page.interval(row), page.target(row))
        table.add_row(*cells, marks[figure.passed])
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m codecdiff_starter.demo", description="Measure a model and write its page."
    )
    parser.add_argument("folder", type=Path, help="where the page goes")
    parser.add_argument("--model", type=Path, help="model folder (default: FOLDER/model)")
    parser.add_argument("--music", type=Path, help="the composed music it was trained on (default: FOLDER/music)")
    parser.add_argument("--clips", type=int, default=64, help="in every compared set")
    parser.add_argument("--seconds", type=float, default=5.0, help="of every clip")
    parser.add_argument("--seed", type=int, default=SEED, help="of the evaluation")
    parser.add_argument("--steps", type=int, help="of sampling (default: the model's)")
    parser.add_argument("--guidance", type=float, help="(default: the model's)")
    parser.add_argument("--shipped", action="store_true", help="hold it to the targets of the shipped model")
    parser.add_argument("--since", type=float, help="Unix time at which everything began, to time all of it")
    options = parser.parse_args(arguments)
    folder, console = options.folder, Console()
    model, music = options.model or folder / "model", options.music or folder / "music"
    targets = SHIPPED if options.shipped else DEMO

    pipeline = Pipeline.load(model)
    logs = read_logs(model, [stage.name for stage in pipeline.stages])
    with console.status("evaluating") as status:
        figures, details, examples = evaluate(
            pipeline,
            music,
            clips=options.clips,
            seconds=options.seconds,
            seed=options.seed,
            steps=options.steps,
            guidance=options.guidance,
            targets=targets,
            num_workers=os.cpu_count() or 1,
            announce=lambda name: status.update(f"evaluating: {name}"),
        )
    samples = write_samples(folder, examples, pipeline.sample_rate)
    memory = max([peak_memory(), *(line.get("peak_memory", 0.0) for log in logs.values() for line in log)])
    figures = [*loss_figures(logs, targets), *figures, Figure("peak memory, GB", memory, at_most=targets.memory)]
    if options.since is not None:
        minutes = (time.time() - options.since) / 60
        figures.append(Figure("minutes from make demo to this page", minutes, at_most=targets.minutes))
    command = shlex.join(
        ["python", "-m", "codecdiff_starter.demo", *(sys.argv[1:] if arguments is None else arguments)]
    )
    report = {"command": command, "figures": [figure.row() for figure in figures], **details}
    report |= {"peak_memory": memory, "samples": samples, "logs": logs}
    atomic_write_text(folder / "report.json", json.dumps(finite(report), indent=2, ensure_ascii=False) + "\n")
    written = page.write_page(folder, report)
    show(console, figures)
    console.print(f"{written}: open it in a browser")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, LookupError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
