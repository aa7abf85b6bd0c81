"""Measure a model trained on composed music and write the page that shows it.

python -m codecdiff_starter.demo runs/demo

reads `model/` and `music/` in that folder and writes `samples/`, `report.json`, `report.md` and `index.html` there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from codecdiff_eval.report import console_table, write_report
from codecdiff_eval.results import TargetResult
from rich.console import Console

from codecdiff.cli.console import errors_as_sentences
from codecdiff.pipeline import Pipeline
from codecdiff.training import read_logs
from codecdiff_starter.evaluation import DEMO, SEED, SHIPPED, EvalOptions, evaluate_model, loss_targets
from codecdiff_starter.report import demo_report, shipped_players, targets_table, write_players


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    folder, console = options.folder, Console()
    model, music = options.model or folder / "model", options.music or folder / "music"
    targets = SHIPPED if options.shipped else DEMO
    pipeline = Pipeline.from_pretrained(model)
    logs = read_logs(model, [stage.name for stage in pipeline.stages])
    with console.status("evaluating") as status:
        results, details, examples = evaluate_model(
            pipeline,
            music,
            EvalOptions(options.clips, options.seconds, options.seed, options.steps, options.guidance),
            targets=targets,
            num_workers=os.cpu_count() or 1,
            announce=lambda name: status.update(f"evaluating: {name}"),
        )
    with console.status("generating with the shipped model"):
        shipped = [] if options.shipped else shipped_players(folder)
    memory = max([details["memory"], *(line.get("peak_memory", 0.0) for log in logs.values() for line in log)])
    results = [*loss_targets(logs, targets), *results, TargetResult("memory, GB", memory, at_most=targets.memory)]
    if options.since is not None:
        minutes = (time.time() - options.since) / 60
        results.append(TargetResult("minutes from make demo to this page", minutes, at_most=targets.minutes))
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "codecdiff_starter.demo", *words])
    details = {**details, "memory": memory, "logs": logs}
    players = write_players(folder, examples, pipeline.sample_rate)
    data = {"command": command, "targets": [row.to_json() for row in results], **details, "players": players}
    report = write_report(demo_report(results, details, players, command, shipped), folder, data)
    console.print(console_table(targets_table(results)))
    console.print(f"{report}: open it in a browser")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m codecdiff_starter.demo", description="Measure a model and write its page."
    )
    parser.add_argument("folder", type=Path, help="where the page goes")
    parser.add_argument("--model", type=Path, help="model folder (default: FOLDER/model)")
    parser.add_argument("--music", type=Path, help="the composed music it was trained on (default: FOLDER/music)")
    parser.add_argument("--clips", type=int, default=64, help="in every compared set")
    parser.add_argument("--seconds", type=float, default=5.0, help="of every clip")
    parser.add_argument("--seed", type=int, default=SEED, help="of the evaluation")
    parser.add_argument("--num-inference-steps", "--steps", dest="steps", type=int, help="(default: the model's)")
    parser.add_argument("--guidance-scale", "--guidance", dest="guidance", type=float, help="(default: the model's)")
    parser.add_argument("--shipped", action="store_true", help="use the targets of the shipped model")
    parser.add_argument("--since", type=float, help="Unix time at which everything began, to time all of it")
    return parser


if __name__ == "__main__":
    with errors_as_sentences():
        main()
