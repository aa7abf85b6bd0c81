"""The page at the end of a training run: samples with their prompts, and the losses of every stage."""

from __future__ import annotations

from pathlib import Path

from codecdiff.cli.console import err
from codecdiff.data import Track, find_tracks
from codecdiff.pipeline import read_config
from codecdiff.training import read_logs
from codecdiff_eval.plots import plot_losses
from codecdiff_eval.report import Notes, Player, Players, Plot, Report, Section, facts_table, write_report

SAMPLES = "Generated at the end of training, each from the text above it. Click a spectrogram to play from there."
NO_LOSSES = "No losses were logged."
LOSSES = "Validation losses are of the averaged weights, with fixed noise. The zero predictor is the best constant."
UNTRAINED = (
    "No better than predicting the mean: {stages}. The validation loss is not below that of the zero predictor, so "
    "train longer, or change the learning rate or the network."
)


def write_run_report(folder: Path | str) -> Path:
    """Write `index.html` and `report.md` into the folder of a run, and return the path of the page.

    Samples are the audio of `samples/`, with captions as in any folder of audio. It is the entry point `report` of the
    group `codecdiff.run_end`, which a recipe calls when training ends. The path is printed.
    """
    folder = Path(folder)
    model = folder / "model"
    logs = read_logs(model, sorted(file.parent.name for file in model.glob("*/log.jsonl")))
    losses = [
        Plot(stage, plot_losses(stage, log), f"loss by step, {log[-1]['step']:,} steps" if log else "", NO_LOSSES)
        for stage, log in logs.items()
    ]
    samples = find_tracks(folder / "samples") if any(folder.glob("samples/*")) else []
    sections = [Section("Samples", SAMPLES, _players(samples, folder))] if samples else []
    untrained = [stage for stage, log in logs.items() if log and log[-1].get("normalized_validation_loss", 0) >= 1]
    notes = [Notes([UNTRAINED.format(stages=", ".join(untrained))], warning=True)] if untrained else []
    sections.append(Section("Losses", LOSSES, [*notes, *losses]))
    if music := _music_facts(model):
        sections.append(Section("Music it was trained on", blocks=[facts_table("the store", music)]))
    report = write_report(Report(folder.resolve().name, sections, kicker="codecdiff · training run", files=()), folder)
    err.print(f"Report: {report}", soft_wrap=True)
    return report


def _music_facts(model: Path) -> dict[str, str]:
    """Return how much music a model was trained on, and the hours under each license, as its folder records them."""
    data = read_config(model)["data"] if (model / "codecdiff.json").is_file() else {}
    facts = {name: f"{data[name]:,g}" for name in ("tracks", "hours") if isinstance(data.get(name), int | float)}
    hours = {f"hours under {name}": f"{value:g}" for name, value in data.get("license_hours", {}).items()}
    return {**facts, **hours}


def _players(samples: list[Track], folder: Path) -> list[Players]:
    """Return the players of samples, grouped by caption."""
    by_caption: dict[str, list[Player]] = {}
    for track in samples:
        path = track.file.relative_to(folder).as_posix()
        caption = track.captions[0] if track.captions else ""
        by_caption.setdefault(caption, []).append(Player(path, track.file.stem, generated=True))
    return [Players(f"“{text}”" if text else "Without text", players) for text, players in by_caption.items()]
