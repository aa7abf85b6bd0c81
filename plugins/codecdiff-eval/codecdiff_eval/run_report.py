"""The page at the end of a training run: samples with their prompts, and the losses of every stage."""

from __future__ import annotations

from pathlib import Path

from codecdiff.cli.console import err
from codecdiff.data import Track, find_tracks
from codecdiff.files import read_json
from codecdiff.pipeline import read_stage_config
from codecdiff.training import no_progress_note, read_logs
from codecdiff_eval.plots import plot_losses
from codecdiff_eval.report import NoteList, Player, Players, Plot, Report, Section, facts_table, write_report

SAMPLES = "Generated at the end of training, each from the text above it. Click a spectrogram to play from there."
NO_LOSSES = "No losses were logged."
LOSSES_BEFORE = "Validation losses are of the averaged weights, with fixed noise; before: the loss at the start."
FOLDERS = {"model": "codecdiff.json", "adapter": "adapter.json"}  # of what a run trains, and the file with its data
LOSSES = "Validation losses are of the averaged weights, with fixed noise; the zero predictor is the best constant."


def write_run_report(folder: Path | str) -> Path:
    """Write `index.html` and `report.md` into the folder of a run, and return the path of the page.

    Samples are the audio of `samples/`, with captions as in any folder of audio. It is the entry point `report` of the
    group `codecdiff.run_end`, which a recipe calls when training ends. The path is printed.
    """
    folder = Path(folder)
    model = next((folder / name for name in FOLDERS if (folder / name).is_dir()), folder / "model")
    logs = read_logs(model, sorted(file.parent.name for file in model.glob("*/log.jsonl")))
    bases = {stage: _base_loss(model / stage) for stage in logs}
    captions = {stage: f"loss by step, {log[-1]['step']:,} steps" if log else "" for stage, log in logs.items()}
    losses = [
        Plot(stage, plot_losses(stage, log, bases[stage]), captions[stage], NO_LOSSES) for stage, log in logs.items()
    ]
    samples = find_tracks(folder / "samples") if any(folder.glob("samples/*")) else []
    sections = [Section("Samples", SAMPLES, _players(samples, folder))] if samples else []
    notes = [note for stage, log in logs.items() if (note := no_progress_note(stage, log, bases[stage]))]
    sections.append(
        Section(
            "Losses",
            LOSSES_BEFORE if any(bases.values()) else LOSSES,
            [*losses, *([NoteList(notes, warning=True)] if notes else [])],
        )
    )
    if music := _music_facts(model):
        sections.append(Section("Music it was trained on", blocks=[facts_table("the store", music)]))
    report = write_report(Report(folder.resolve().name, sections, kicker="codecdiff · training run", files=()), folder)
    err.print(f"Report: {report}", soft_wrap=True)
    return report


def _base_loss(stage: Path) -> float | None:
    """Return the validation loss before training of a stage that started from a model, None for others."""
    facts = read_stage_config(stage)["training"] if (stage / "stage.json").is_file() else {}
    return facts.get("base_validation_loss")


def _music_facts(model: Path) -> dict[str, str]:
    """Return how much music was trained on, and the hours under each license, as the folder of a model records them."""
    file = model / FOLDERS.get(model.name, "codecdiff.json")
    data = read_json(file)["data"] if file.is_file() else {}
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
