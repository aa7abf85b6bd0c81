"""One report writer for `evaluate`, `compare`, the demo and the page at the end of a run: a worked example of each."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from codecdiff_eval.numbers import (
    describe_difference,
    format_count,
    format_difference,
    format_interval,
    format_number,
)
from codecdiff_eval.plots import plot_curves, plot_intervals, plot_losses
from codecdiff_eval.report import (
    Cell,
    Code,
    NoteList,
    Player,
    Players,
    Plot,
    Report,
    Section,
    Table,
    console_table,
    estimate_cell,
    facts_table,
    render_markdown,
    write_report,
)
from markupsafe import escape
from rich.console import Console

RATE = 44_100
NASTY = "<script>alert(\"1\")</script> & 'so on' | [a](b) `c`"


def write_tones(folder: Path, *names: str) -> None:
    """Write one second of a rising tone for each name."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        seconds = np.arange(RATE) / RATE
        vibrato = 3 * np.sin(2 * np.pi * 5 * seconds)
        partials = (np.sin(k * (2 * np.pi * 110 * (i + 1.5) * seconds + vibrato)) / k for k in (1, 2, 3, 4))
        decay = np.exp(-3 * (2 * seconds % 1))
        soundfile.write(folder / "samples" / name, 0.2 * decay * sum(partials), RATE)


def loss_log(zero: float, steps: int = 40) -> list[dict[str, Any]]:
    """Return the log of a stage."""
    losses = [zero * (0.35 + 0.6 * math.exp(-i / 9)) for i in range(1, steps)]
    return [
        {
            "step": 50 * i,
            "loss": loss + 0.03 * math.sin(9 * i),
            "validation_loss": loss * 1.05,
            "zero_predictor_loss": zero,
        }
        for i, loss in enumerate(losses, 1)
    ]


def evaluation_report(folder: Path) -> Report:
    """Metrics with their context, what was not measured, and how everything was measured."""
    columns = ("clips", "metric", "value", "95 % interval", "n", "split half", "codec reconstruction", "oracle stage 1")
    fad = ("generated", Cell("FAD ↓", ("Fréchet distance of log-mel statistics",)), "12.4", "11.1 to 13.9", "64")
    clap = ("generated", "CLAP score ↑", "0.31", "0.29 to 0.33", "64")
    unmeasured = Cell("not measured", status="quiet")
    table = Table(columns, [(*fad, "0.82", "4.10", "7.33"), (*clap, unmeasured, "0.36", unmeasured)], text_columns=2)
    distances = {
        "generated": (12.4, 11.1, 13.9),
        "oracle first stage": (7.33, 6.4, 8.2),
        "codec reconstruction": (4.1, 3.7, 4.6),
        "split half": (0.82, 0.7, 0.95),
    }
    facts = {"embedder": "logmel", "sample rate": "44,100 Hz", "interval": "95 %, 200 resamples of the 64 tracks"}
    return Report(
        f"Evaluation of {NASTY}",
        [
            Section(
                "Metrics", "Each beside what it is read against.", [table, NoteList([NASTY, "n < 20."], warning=True)]
            ),
            Section(
                "Distances", "", [Plot("FAD", plot_intervals("FAD", distances, log=True), "to the reference, log")]
            ),
            Section("Not measured", "", [NoteList(["CLAP score, generated, split half: it compares clips with text"])]),
            Section("How it was measured", "", [facts_table("all metrics", facts), facts_table("FAD", {"clips": 64})]),
        ],
        kicker="codecdiff · evaluate",
        highlights=[("12.4", "FAD ↓"), ("64", "clips")],
        files=["report.json", "report.md"],
    )


def comparison_report(folder: Path) -> Report:
    """Variants side by side: paired differences, losses by FLOPs, players by prompt and variant, costs."""
    variants = ("coarse-first", "parallel", "delayed")
    write_tones(folder, "real.flac", *(f"{name}.flac" for name in variants))
    rows = []
    for metric, better, values in (
        ("Fréchet distance", "lower", (68.1, 92.4, 71.0)),
        ("probe score", "higher", (0.61, 0.4, 0.6)),
    ):
        first = values[0]
        cells = [Cell(format_number(first), (format_interval(0.9 * first, 1.1 * first),))]
        for value in values[1:]:
            difference = (value - first, value - first - 0.1 * first, value - first + 0.1 * first)
            verdict = describe_difference(*difference, better).partition(":")[0]
            status = "good" if verdict == "better" else "bad" if verdict == "worse" else ""
            details = (format_interval(0.9 * value, 1.1 * value), format_difference(*difference), verdict)
            cells.append(Cell(format_number(value), details, status))
        rows.append((Cell(f"{metric} {'↓' if better == 'lower' else '↑'}", ("of the full cascade",)), *cells))
    curves = {
        name: [(i * 5e10, 1 - (0.5 - 0.04 * k) * (1 - math.exp(-i / 10))) for i in range(1, 40)]
        for k, name in enumerate(variants)
    }
    intervals = plot_intervals(
        "distance", {n: (v, 0.9 * v, 1.1 * v) for n, v in zip(variants, (68, 92, 71), strict=True)}
    )
    players = [Player("samples/real.flac", "Real", "validation track")]
    players += [Player(f"samples/{name}.flac", name, "full cascade", generated=True) for name in variants]
    costs = [(name, "primary", "1,204,224", "1,500", format_count(1.9e12)) for name in variants]
    return Report(
        " / ".join(variants),
        [
            Section(
                "What is shown", "Differences to the first variant.", [NoteList(["There is one seed."], warning=True)]
            ),
            Section(
                "Metrics", "Mean over seeds.", [Table(("metric", *variants), rows), Plot("Fréchet distance", intervals)]
            ),
            Section(
                "Loss per FLOP", "", [Plot("Whole models", plot_curves("Losses", curves, x_label="training FLOPs"))]
            ),
            Section("Listen", "Click a picture to play from there.", [Players(f"“{NASTY}”", players)]),
            Section("Costs", "", [Table(("variant", "stage", "parameters", "steps", "training FLOPs"), costs)]),
            Section(
                "How it was made", "", [Code("codecdiff compare compare.yaml"), facts_table("", {"seeds": [0, 1]})]
            ),
        ],
        kicker="codecdiff · compare",
        highlights=[("3 × 2", "variants × seeds"), (f"{format_count(1.9e12)}FLOPs", "of training each")],
    )


def demo_report(folder: Path) -> Report:
    """Players by prompt, targets that were reached or missed, plots, memorization."""
    kinds = {
        "generated": "from the caption alone",
        "oracle": "real first stage",
        "codec": "upper bound",
        "real": "validation",
    }
    write_tones(folder, *(f"{kind}.wav" for kind in kinds))
    players = [Player(f"samples/{k}.wav", k.title(), v, generated=k == "generated") for k, v in kinds.items()]
    reached, missed = Cell("✓ reached", status="good"), Cell("✗ missed", status="bad")
    figures = [
        ("validation loss of the primary stage", format_number(0.61), "", "≤ 0.7", reached),
        ("mean probe score", format_number(0.583), format_interval(0.51, 0.65), "≥ 0.6", missed),
        ("peak memory in GB", format_number(1.5), "", "", ""),
    ]
    distances = {
        name: (v, 0.8 * v, 1.2 * v) for name, v in (("real", 4), ("oracle", 31), ("generated", 88), ("noise", 1290))
    }
    scores = {name: (v, v - 0.1, v + 0.1) for name, v in (("drums", 0.8), ("tempo", 0.42), ("shuffled", -0.02))}
    probe = plot_intervals("Probe scores", scores, bounds=(0, 1))
    stages = [("primary", loss_log(1.0)), ("<b>secondary", loss_log(2.0))]
    return Report(
        "Music from words, level by level",
        [
            Section(
                "Listen",
                "Each card is one caption.",
                [Players("“drums and a slow bass”", players, "unseen"), Players(NASTY, players)],
            ),
            Section("What it learned", "", [Table(("figure", "measured", "95 % interval", "target", ""), figures)]),
            Section(
                "Distance and prompt adherence",
                "Bars are 95 % intervals.",
                [
                    Plot("Fréchet distance", plot_intervals("Distances", distances, log=True), "logarithmic"),
                    Plot("Probe score", probe, "0 is chance"),
                ],
            ),
            Section("Learning", "", [Plot(stage, plot_losses(stage, log), "loss by step") for stage, log in stages]),
            Section("How it was made", "", [Code("python -m codecdiff_starter.demo 'runs/<demo>'")]),
        ],
        kicker="codecdiff · demo",
        introduction="A neural codec writes audio as a few levels of codes, coarse to fine.",
        highlights=[("1 of 2", "targets reached"), ("1.5 GB", "peak memory")],
        files=["report.json"],
    )


def run_report(folder: Path) -> Report:
    """The page at the end of a training run, of a stage without a log too."""
    write_tones(folder, "0 #a.wav")
    losses = [Plot("primary", plot_losses("primary", loss_log(1.0)))]
    losses += [Plot("secondary", plot_losses("secondary", []), empty="No losses were logged.")]
    players = Players("a slow waltz", [Player("samples/0 #a.wav", "Generated", "seed 0", generated=True)])
    return Report("runs/mine", [Section("Samples", "", [players]), Section("Losses", "", losses)])


EXAMPLES = (evaluation_report, comparison_report, demo_report, run_report)


class Page(HTMLParser):
    """The elements of a page, with a check that they are properly nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(params=EXAMPLES, ids=lambda example: example.__name__)
def example(request: pytest.FixtureRequest) -> Callable[[Path], Report]:
    return request.param


def test_a_page_loads_nothing_from_elsewhere_and_is_deterministic(
    example: Callable[[Path], Report], tmp_path: Path
) -> None:
    first, second = (write_report(example(tmp_path / name), tmp_path / name) for name in "ab")
    text = first.read_text(encoding="utf-8")
    assert text == second.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", text)
    page = Page(text)
    assert len(page.all("script")) == len(page.all("style")) == len(page.all("title")) == 1
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.all("img"))
    assert all(svg["aria-label"] for svg in page.all("svg"))
    targets = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert {use["href"] for use in page.all("use")} <= targets
    assert {link["href"] for link in page.all("a")} <= targets | {"report.json", "report.md"}


def test_every_player_has_a_file_beside_the_page(example: Callable[[Path], Report], tmp_path: Path) -> None:
    from urllib.parse import unquote

    report = example(tmp_path)
    page = Page(write_report(report, tmp_path).read_text(encoding="utf-8"))
    blocks = [block for section in report.sections for block in section.blocks if isinstance(block, Players)]
    paths = [player.path for block in blocks for player in block.players]
    assert [unquote(audio["src"]) for audio in page.all("audio")] == paths
    assert all(soundfile.info(tmp_path / path).frames == RATE for path in paths)
    assert all(f"[{p.title}]" in render_markdown(report) for block in blocks for p in block.players)


def test_what_a_user_typed_is_escaped(tmp_path: Path) -> None:
    blocks = [
        Table((NASTY, NASTY), [(NASTY, Cell(NASTY, (NASTY,)))], title=NASTY),
        facts_table(NASTY, {NASTY: NASTY}),
        Plot(NASTY, plot_intervals(NASTY, {NASTY: (1, 0, 2)}), NASTY),
        Plot(NASTY, "", NASTY, empty=NASTY),
        Players(NASTY, [Player("samples/a.wav", NASTY, NASTY)], NASTY),
        NoteList([NASTY]),
        Code(NASTY),
    ]
    write_tones(tmp_path, "a.wav")
    report = Report(NASTY, [Section(NASTY, NASTY, blocks)] * 4, NASTY, NASTY, [(NASTY, NASTY)], [NASTY])
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1
    assert text.count("alert(") == text.count("&lt;script&gt;alert(") > 50
    assert text.count(str(escape(NASTY))) > 50
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert {line for line in markdown.splitlines() if "<script" in line} == {f"    {NASTY}"}  # code
    assert "[a]\\(b)" in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| &lt;script"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_markdown_holds_every_table_note_and_section(tmp_path: Path) -> None:
    lines = render_markdown(evaluation_report(tmp_path)).splitlines()
    assert [line for line in lines if line.startswith("## ")] == [
        "## Metrics",
        "## Distances",
        "## Not measured",
        "## How it was measured",
    ]
    start = lines.index(
        "| clips | metric | value | 95 % interval | n | split half | codec reconstruction | oracle stage 1 |"
    )
    assert lines[start + 1] == "|" + "---|" * 8
    assert lines[start + 2] == (
        "| generated | FAD ↓ (Fréchet distance of log-mel statistics) | 12.4 | 11.1 to 13.9 | 64 | 0.82 | 4.10 | 7.33 |"
    )
    assert "- CLAP score, generated, split half: it compares clips with text" in lines
    assert "- n &lt; 20." in lines
    assert "| embedder | logmel |" in lines
    assert "- FAD ↓: 12.4" in lines


def test_json_holds_the_data_without_numbers_it_does_not_know(tmp_path: Path) -> None:
    data = {"a": [math.nan, 1.0, {"b": math.inf}], "c": "nan", "d": (1, None)}
    write_report(Report("t", []), tmp_path, data)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, 1.0, {"b": None}], "c": "nan", "d": [1, None]}
    write_report(Report("t", []), tmp_path / "new")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["index.html", "report.md"]


def test_a_missing_plot_says_why_and_a_row_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    assert "No losses were logged." in write_report(run_report(tmp_path), tmp_path).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="has 1 cells: expected 2, one per column"):
        render_markdown(Report("t", [Section("s", "", [Table(("a", "b"), [("1",)])])]))


def test_a_table_is_printed_on_the_console_as_it_is() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_table(Table(("a", "b"), [("[red]x", Cell("1", ("0 to 2", "same")))], title="[t]")))
    text = console.export_text()
    assert "[red]x" in text
    assert "1 (0 to 2; same)" in text
    assert "[t]" in text


def test_what_all_rows_of_a_printed_table_have_in_common_is_in_its_title() -> None:
    def printed(*rows: tuple[str, ...]) -> list[str]:
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(console_table(Table(("clips", "embedder", "metric", "value"), rows, text_columns=3)))
        return console.export_text().splitlines()

    fad, kad = (("mine", "logmel", name, "1 (0.98 to 1.02)") for name in ("FAD, shrunk", "KAD"))
    title, head, *rows = printed(fad, kad)
    assert title.strip() == "clips: mine, embedder: logmel"
    assert head.split(" │ ")[0].strip() == "metric"
    assert not any("mine" in row for row in rows)
    assert sum("mine" in row for row in printed(fad, kad, ("yours", "codec", "KAD", "3"))) == 2
    assert printed(fad)[0].split("│")[0].strip() == "clips"


def test_the_report_is_imported_without_torch_or_matplotlib() -> None:
    code = "import sys, codecdiff_eval.report, codecdiff_eval.plots as _; "
    code += "print({'torch', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_numbers_have_about_three_digits_and_a_dash_where_there_is_none() -> None:
    values = (1289.6, 2.4178, 17.512, -0.1, -0.001, -0.0001, 0, None, math.nan, math.inf)
    written = ["1,290", "2.42", "17.5", "−0.100", "−0.001", "0.000", "0.000", "–", "–", "–"]
    assert [format_number(value) for value in values] == written


def test_facts_are_written_without_brackets_and_with_six_digits() -> None:
    facts = {"seconds": {"generated": 2.0164999999999997, "codec": 0.3}, "names": ["piano", "flute"], "rate": 44100}
    rows = facts_table("", facts).rows
    assert [text for _, text in rows] == ["generated 2.0165, codec 0.3", "piano, flute", "44100"]


def test_counts_are_written_by_powers_of_a_thousand() -> None:
    values = (0, 1500, 932_832, 4.65e9, 1.2e12, 2e15)
    assert [format_count(value) for value in values] == ["0", "1,500", "932,832", "4.65 G", "1.2 T", "2 P"]


def test_a_value_has_the_digits_of_its_interval() -> None:
    assert estimate_cell((1.0036684, 1.0034548, 1.0038636)) == Cell("1.00367", ["1.00345 to 1.00386"])
    assert estimate_cell((2, 2, 2), ["more"], "good") == Cell("2.00", ["more"], "good")
    assert estimate_cell((1.063365, 1.063365, 1.0633650000000002)) == Cell("1.06", [])  # of one seed, resampled
    assert [format_interval(0.5, 2.0), format_interval(None, None)] == ["0.500 to 2.00", ""]


@pytest.mark.parametrize(
    ("low", "value", "high", "text"),
    [
        (17.512, 68.073, 134.83, "+68.1 (17.5 to 135)"),
        (0.00002, 0.000032, 0.00004, "+0.000032 (0.000020 to 0.000040)"),
        (-1.2e-8, -1e-8, -0.8e-8, "−1e−08 (−1.2e−08 to −8e−09)"),
        (None, -0.0000315, None, "−0.000031"),
        (None, 0.0, None, "0.000"),
        (-2.0, 0.0004, 3.0, "0.000 (−2.00 to 3.00)"),
    ],
)
def test_a_difference_is_never_written_as_none(low: Any, value: float, high: Any, text: str) -> None:
    assert format_difference(value, low, high) == text


@pytest.mark.parametrize(
    ("low", "value", "high", "better", "text"),
    [
        (-1, 1, 3, "lower", "no difference shown: the 95 % interval includes zero"),
        (1, 2, 3, "lower", "worse"),
        (-3, -2, -1, "lower", "better"),
        (1, 2, 3, "higher", "better"),
        (0, 0, 0, "lower", "the same"),
        (1, 2, 3, "", "differs"),
        (None, 2, None, "lower", "one seed: differences between runs are not estimated"),
        (2, 2, 2, "lower", "one seed: differences between runs are not estimated"),
        (2, 2, 2 + 1e-15, "lower", "one seed: differences between runs are not estimated"),
    ],
)
def test_a_difference_is_described_by_its_interval(low: Any, value: float, high: Any, better: str, text: str) -> None:
    assert describe_difference(value, low, high, better) == text
