"""The page of a demo: what the model generates, beside what it was trained to imitate, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, NOISE
from codecdiff_eval.numbers import format_interval, format_number
from codecdiff_eval.plots import plot_intervals, plot_losses
from codecdiff_eval.report import Cell, Code, Player, Players, Plot, Report, Section, Table, facts_table
from codecdiff_eval.results import Estimate, TargetResult

from codecdiff.data import write_audio
from codecdiff.pipeline import Pipeline
from codecdiff_starter.evaluation import COMPARED, COMPOSED, ORACLE, DemoExample

PLAYERS = {  # by the name of a set: title and caption
    GENERATED: ("Generated", "from these words alone"),
    ORACLE: ("Oracle first stage", "coarse level real, fine levels generated"),
    CODEC_RECONSTRUCTION: ("Codec reconstruction", "real music, encoded and decoded"),
    COMPOSED: ("Real", "composed, never trained on"),
    NOISE: ("Noise", "random codes, decoded"),
}
SHIPPED_PROMPTS = (
    "a fast tune in G major on piano with drums, 150 bpm",
    "a swelling ballad in C major on strings with piano chords, 72 bpm",
    "funk in E minor on guitar with a kick and snare, 104 bpm",
    "a bossa nova in D major for flute with brushed drums and an upright bass, 120 bpm",
    "a waltz in A major on clarinet with soft chords and no drums, 100 bpm",
    "disco in F minor on saxophone with a synth bass and drums, 118 bpm",
)
SHIPPED_SECONDS = 6.0
MARKS = {True: Cell("✓ reached", status="good"), False: Cell("✗ missed", status="bad"), None: Cell("")}


def write_players(folder: Path, examples: Sequence[DemoExample], sample_rate: int) -> list[Players]:
    """Write examples as WAV to `samples/` in the folder, and return their players, prompt by prompt."""
    rows = []
    for number, (prompt, is_unseen, clips) in enumerate(examples):
        players = []
        for name in (name for name in PLAYERS if name in clips):
            path = f"samples/{number:02d}-{name.replace(' ', '-')}.wav"
            write_audio(folder / path, clips[name], sample_rate)
            players.append(Player(path, *PLAYERS[name], generated=name == GENERATED))
        badge = "combination never trained on" if is_unseen else ""
        rows.append(Players(f"“{prompt}”" if prompt else "Without a model", players, badge))
    return rows


def shipped_players(
    folder: Path, prompts: Sequence[str] = SHIPPED_PROMPTS, seconds: float = SHIPPED_SECONDS
) -> list[Players]:
    """Let the model of the package play prompts, to `samples/` in a folder, and return their players."""
    pipeline = Pipeline.from_pretrained("starter")
    output = pipeline(list(prompts), audio_length_in_s=seconds, seed=0)
    players = []
    for number, (prompt, audio) in enumerate(zip(prompts, output.audios, strict=True)):
        path = f"samples/shipped-{number:02d}.wav"
        write_audio(folder / path, torch.as_tensor(audio), pipeline.sample_rate)
        players.append(Player(path, f"“{prompt}”", generated=True))
    return [Players("Starter model", players, "shipped with the package")]


def targets_table(targets: Sequence[TargetResult]) -> Table:
    """Return the table of measured values, with what they should be."""
    rows = [
        (row.name, format_number(row.value), format_interval(row.low, row.high), target_text(row), MARKS[row.passed])
        for row in targets
    ]
    return Table(("what it learned", "measured", "95 % interval", "target", ""), rows)


def target_text(row: TargetResult) -> str:
    """Write the bounds that a value should keep."""
    low, high = format_number(row.at_least), format_number(row.at_most)
    if row.at_least is not None and row.at_most is not None:
        return f"{low} to {high}"
    return f"≥ {low}" if row.at_least is not None else f"≤ {high}" if row.at_most is not None else ""


def demo_report(
    targets: Sequence[TargetResult],
    details: Mapping[str, Any],
    players: Sequence[Players],
    command: str,
    shipped: Sequence[Players] = (),
) -> Report:
    """Return the page's sections. `details` are those of the evaluation, with `logs` of the stages.

    shipped: what the model of the package plays, with which the page opens.
    """
    verdicts = [row.passed for row in targets if row.passed is not None]
    ratio, options = details["frechet distance"]["generated ratio"].value, details["options"]
    losses = [Plot(stage, plot_losses(stage, log), "loss by step") for stage, log in details["logs"].items()]
    return Report(
        "Music from words, level by level",
        [
            *([Section("The model that comes with codecdiff", SHIPPED_TEXT, shipped)] if shipped else []),
            Section("The model trained here", PLAYERS_TEXT, players),
            Section("What it learned", LEARNED.format(**options), [targets_table(targets)]),
            Section("Distance and prompt adherence", NEAR, _interval_plots(details)),
            Section("Learning", LOSSES, losses),
            Section("Memorization", MEMORIZATION, [_memorization_table(details["memorization"])]),
            Section("How it was made", "", [Code(command), *_facts_tables(details)]),
        ],
        kicker="codecdiff · demo",
        introduction=INTRODUCTION,
        highlights=[
            (f"{sum(verdicts)} of {len(verdicts)}", "targets reached"),
            (format_number(details["probes"]["all"].value), "probe score: prompt adherence"),
            (f"{format_number(ratio)}×", "as far from music as other music is"),
            (f"{details['memory']:.1f} GB", "memory"),
        ],
    )


def _facts_tables(details: Mapping[str, Any]) -> list[Table]:
    """Return the settings of the evaluation, and what everything took."""
    seconds = {f"training: {stage}": log[-1]["seconds"] for stage, log in details["logs"].items()}
    seconds |= {f"evaluation: {name}": value for name, value in details["evaluation_seconds"].items()}
    settings = {name: "the model's" if value is None else value for name, value in details["options"].items()}
    return [
        facts_table("settings", {"composer version": details["composer version"], **settings}),
        facts_table("seconds", {name: f"{value:,.0f}" for name, value in seconds.items()}),
    ]


def _interval_plots(details: Mapping[str, Any]) -> list[Plot]:
    """Plot the distances of the sets and the scores of the probes."""
    distances = {name: details["frechet distance"][name] for name in COMPARED if name in details["frechet distance"]}
    probes = details["probes"]
    scores: dict[str, Estimate] = {name: part["score"] for name, part in probes["parts"].items()}
    scores |= {name: probes[name] for name in ("all", "unseen combinations", "permuted")}
    far = plot_intervals("Fréchet distances", distances, log=True)
    read = plot_intervals("Probe scores", scores, bounds=(0, 1))
    return [
        Plot("Fréchet distance", far, "to validation music, logarithmic"),
        Plot("Probe score", read, "0 is chance, 1 as legible as real music"),
    ]


def _memorization_table(memorization: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, measured in memorization.items():
        distances = format_number(measured["to training clips"]), format_number(measured["to fresh clips"])
        value, *ends = measured["ratio"]
        rows.append((name, *distances, format_number(value), format_interval(*ends)))
    return Table(("clips", "to training", "to fresh clips", "ratio", "95 % interval"), rows)


INTRODUCTION = (
    "A neural codec writes audio as a few levels of codes, coarse to fine. A first diffusion model generates the "
    "coarse level from a caption, a second one adds the fine levels, and the codec decodes both to audio. Except "
    "for the model of the first section, one command produced everything on this page, including the training music."
)
SHIPPED_TEXT = (
    "Six prompts, generated by the model `starter`, whose weights are part of the package. It was trained by the same "
    "recipe, for two hours instead of minutes. Its model card describes it; the rest of this page is about another "
    "model."
)
PLAYERS_TEXT = (
    "The model that was just trained. Each row is a caption that is not in its training data. Click a spectrogram to "
    "play from there; it shows pitch from bottom to top and time from left to right. The codec is small, so compare "
    "the generated clips with the codec reconstruction of the real music."
)
LEARNED = (
    "Measured on {clips} clips of {seconds:g} seconds in each set, for captions that are not in the training data. "
    "Half of them request a combination of instruments that no training track has. Pulse, tuning, tempo and key are "
    "estimated by algorithms without trained parameters. Corrected for chance, 0 is the score of permuted captions, "
    "and 1 that of the codec reconstruction of real music."
)
NEAR = (
    "Left: the distance of each set of clips from validation music in the same codec. Lower is better, and that of "
    "real music is not zero, because the sets are finite. Right: how well linear probes, fitted on real music, detect "
    "the requested instruments in the generated clips. Bars are 95 % intervals over clips."
)
LOSSES = "Validation losses are taken on tracks that are not trained on, with the averaged weights and fixed noise."
MEMORIZATION = (
    "Mean distance from a clip to the nearest training clip, and to the nearest of equally many clips that were "
    "composed in the same way but not trained on. A model that copies training clips is closer to them, so its ratio "
    "is clearly below that of validation music."
)
