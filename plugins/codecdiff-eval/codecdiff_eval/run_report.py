"""The page at the end of a training run: samples with their prompts, and the losses of every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from codecdiff.cli.console import err
from codecdiff.data import Track, find_tracks
from codecdiff.files import read_json
from codecdiff.pipeline import read_stage_config
from codecdiff.training import format_duration, no_progress_note, read_logs
from codecdiff_eval.plots import plot_losses
from codecdiff_eval.report import NoteList, Player, Players, Plot, Report, Section, facts_table, write_report

SAMPLES = "Generated at the end of training, each from the text above it. Click a spectrogram to play from there."
NO_LOSSES = "No losses were logged."
VALIDATION = "The validation loss is that of the averaged weights on tracks that were left out of training. "
LOSSES_BEFORE = f"{VALIDATION}The dotted line is the loss before training."
FOLDERS = {"model": "codecdiff.json", "adapter": "adapter.json"}  # of what a run trains, and the file with its data
LOSSES = f"{VALIDATION}The dotted line is the loss of predicting zero, that is, of having learned nothing."


def write_run_report(folder: Path | str) -> Path:
    """Write `index.html` and `report.md` into the folder of a run, and return the path of the page.

    Samples are the audio of `samples/`, with captions as in any folder of audio. It is the entry point `report` of the
    group `codecdiff.run_end`, which a recipe calls when training ends. The path is printed.
    """
    folder = Path(folder)
    model = next((folder / name for name in FOLDERS if (folder / name).is_dir()), folder / "model")
    logs = read_logs(model, sorted(file.parent.name for file in model.glob("*/log.jsonl")))
    bases = {stage: _base_loss(model / stage) for stage in logs}
    captions = {stage: _caption(log[-1]) if log else "" for stage, log in logs.items()}
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
    if settings := _settings(model, [*logs]):
        sections.append(Section("Settings", blocks=[facts_table("of the run", settings)]))
    if music := _music_facts(model):
        sections.append(Section("Music it was trained on", blocks=[facts_table("the store", music)]))
    report = write_report(Report(folder.resolve().name, sections, kicker="codecdiff · training run", files=()), folder)
    err.print(f"Report: {report}", soft_wrap=True)
    return report


def _caption(row: Mapping[str, float]) -> str:
    """Return what a stage reached, by the last line of its log."""
    caption = f"loss by step, {row['step']:,} steps; validation loss {row['validation_loss']:.3g}"
    normalized = row.get("normalized_validation_loss")
    return caption if normalized is None else f"{caption}, {normalized:.2f} of that of predicting zero"


def _settings(model: Path, stages: Sequence[str]) -> dict[str, str]:
    """Return which parts were trained, and the seed, as the folder of a model records them."""
    file = model / "codecdiff.json"
    spec = read_json(file) if file.is_file() else {}
    codec = spec.get("codec") or {}
    parts = {
        "codec": codec.get("codec", codec),  # within the one that normalizes latents
        "pattern": spec.get("splitter"),
        "text": spec.get("conditioner"),
    }
    named = {name: part["name"] for name, part in parts.items() if isinstance(part, dict) and "name" in part}
    files = [model / stage / "stage.json" for stage in stages]
    seeds = {read_stage_config(file.parent)["training"].get("seed") for file in files if file.is_file()} - {None}
    return {**named, **({"seed": ", ".join(map(str, sorted(seeds)))} if seeds else {})}


def _base_loss(stage: Path) -> float | None:
    """Return the validation loss before training of a stage that started from a model, None for others."""
    facts = read_stage_config(stage)["training"] if (stage / "stage.json").is_file() else {}
    return facts.get("base_validation_loss")


def _music_facts(model: Path) -> dict[str, str]:
    """Return how much music was trained on, and the hours under each license, as the folder of a model records them."""
    file = model / FOLDERS.get(model.name, "codecdiff.json")
    data = read_json(file)["data"] if file.is_file() else {}
    hours = {"duration": data.get("hours"), **{f"under {k}": v for k, v in data.get("license_hours", {}).items()}}
    tracks = {"tracks": f"{data['tracks']:,}"} if isinstance(data.get("tracks"), int) else {}
    return tracks | {name: format_duration(3600 * v) for name, v in hours.items() if isinstance(v, int | float)}


def _players(samples: list[Track], folder: Path) -> list[Players]:
    """Return the players of samples, grouped by caption."""
    by_caption: dict[str, list[Player]] = {}
    for track in samples:
        path = track.file.relative_to(folder).as_posix()
        caption = track.captions[0] if track.captions else ""
        by_caption.setdefault(caption, []).append(Player(path, track.file.stem, generated=True))
    return [Players(f"“{text}”" if text else "Without text", players) for text, players in by_caption.items()]
