"""The report of `codecdiff audit`, and its sentence in a model card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecdiff.data import CodeStore, write_audio
from codecdiff.files import atomic_write_text, read_text
from codecdiff.pipeline import Pipeline, write_model_card
from codecdiff_eval.audit import AuditResult, SetMatches
from codecdiff_eval.eval_sets import GENERATED
from codecdiff_eval.numbers import format_interval, format_number
from codecdiff_eval.report import Player, Players, Report, Section, Table, write_report

SHOWN = 6  # clips with the place in the training music that is most like them
HEADING = "## Memorization"
KICKER = "codecdiff · memorization audit"
READ = (
    "A near copy has the same coarsest codes as one passage of the training music, for a large part of a window. Equal "
    "codes are counted at the passage with the most, for each codebook from coarse to fine. Fresh music, which the "
    "model was not trained on, shows how many are equal by chance. The distance is that to the nearest window of the "
    "training music, by the mean and deviation of its coarse vectors."
)
PAIRS = "The generated clips that have the most codes in common with a passage of the training music, and that passage."


def audit_table(result: AuditResult) -> Table:
    """Return how much every set repeats of the training music."""
    rows = [(name, *_columns(matches)) for name, matches in result.sets.items()]
    return Table(("clips", "number", "near copies", "95 % interval", "equal codes, coarsest", "distance"), rows)


def _columns(matches: SetMatches) -> tuple[str, ...]:
    rate, low, high = matches.rate
    equal = [match.levels[0] for match in matches.matches]
    distance = [match.distance for match in matches.matches]
    most = f"{format_number(sum(equal) / len(equal))} (most {format_number(max(equal))})"
    nearest = f"{format_number(sum(distance) / len(distance))} (least {format_number(min(distance))})"
    return str(len(equal)), f"{100 * rate:.1f} %", format_interval(100 * low, 100 * high), most, nearest


def write_audit(result: AuditResult, pipeline: Pipeline, store: CodeStore, folder: Path, command: str) -> Path:
    """Write `index.html`, `report.md`, `report.json` and the closest pairs as audio; return the path of the page."""
    matches = result.sets[GENERATED].matches
    order = sorted(range(len(matches)), key=lambda i: matches[i].levels, reverse=True)[:SHOWN]
    by_codebook = {name: zip(*(m.levels for m in each.matches), strict=True) for name, each in result.sets.items()}
    levels = Table(
        ("clips", *(f"codebook {i}" for i in range(len(matches[0].levels)))),
        [(name, *(format_number(sum(v) / len(v)) for v in columns)) for name, columns in by_codebook.items()],
    )
    report = Report(
        "Does the model repeat its training music?",
        [
            Section("Near copies", READ, [audit_table(result), levels]),
            Section("Closest pairs", PAIRS, [_pair(result, i, pipeline, store, folder) for i in order]),
        ],
        kicker=KICKER,
        introduction=result.sentence,
    )
    return write_report(report, folder, audit_json(result, store, command))


def audit_json(result: AuditResult, store: CodeStore, command: str) -> dict[str, Any]:
    """Return everything that was found, for `report.json`."""
    sets = {
        name: {
            "rate": each.rate,
            "matches": [{**m._asdict(), "track": store.rows[m.row]["track"]} for m in each.matches],
            "is_copy": each.is_copy,
        }
        for name, each in result.sets.items()
    }
    return {
        "command": command,
        "config": result.config,
        "windows": result.windows,
        "closer than fresh": result.closer_than_fresh,
        "sentence": result.sentence,
        "sets": sets,
    }


def _pair(result: AuditResult, i: int, pipeline: Pipeline, store: CodeStore, folder: Path) -> Players:
    """Write a generated clip and the training music it is most like, laid so that they agree, and return players."""
    match, clip, players = result.sets[GENERATED].matches[i], result.codes[i], []
    row, frames = store.rows[match.row], clip.shape[-1]
    first = max(0, match.start - match.position)
    training = torch.from_numpy(store.crops([match.row], [first], frames)[0].astype(np.int64)).T
    titles = ("generated", f"{row['track']}, from {first / pipeline.codec.frame_rate:.1f} s")
    for kind, title, codes in zip(("generated", "training"), titles, (clip, training), strict=True):
        path = f"clips/{i:03d}-{kind}.wav"
        write_audio(folder / path, pipeline.decode([codes[None].long()])[0], pipeline.sample_rate)
        players.append(Player(path, title, generated=kind == "generated"))
    text = str(result.prompts[i].get("text", ""))
    return Players(
        f"“{text}”" if text else f"clip {i}", players, f"{100 * match.levels[0]:.0f} % of the coarsest codes"
    )


def add_to_model_card(folder: Path | str, sentence: str) -> None:
    """Write a sentence under the heading `Memorization` of a folder's model card, replacing an earlier one."""
    file = Path(folder) / "README.md"
    if not file.exists():
        write_model_card(folder)
    text = read_text(file)
    section = f"{HEADING}\n\n{sentence}\n"
    pattern = re.compile(rf"^{HEADING}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if pattern.search(text):
        updated = pattern.sub(lambda match: section + ("\n" if match.end() < len(text) else ""), text, count=1)
    else:
        updated = f"{text.rstrip()}\n\n{section}"
    atomic_write_text(file, updated)
