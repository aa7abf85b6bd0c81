"""Captions of many tracks: each once, whatever stops a run, and nothing of a track's own text commands anything."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from codecdiff_datasets.append_log import AppendLog
from codecdiff_datasets.captioner import Captioner, Usage
from codecdiff_datasets.captioning import (
    MAX_CAPTION,
    caption_config,
    one_line,
    pending,
    read_captions,
    with_captions,
    write_captions,
)
from codecdiff_datasets.testing import check_captioner
from typer.testing import CliRunner

from codecdiff import config, registry
from codecdiff.cli.main import app
from codecdiff.data.manifest import Manifest, ManifestRow


class Titles(Captioner):
    """Captions a track by its title."""

    incidental = ("speed",)

    def __init__(self, *, word: str = "called", speed: int = 1) -> None:
        self.word = word
        self.concurrency = speed

    def caption(self, track: Mapping[str, Any]) -> str:
        if not track.get("title"):
            raise LookupError("It has no\ntitle.")
        return f"{self.word} {track['title']}"


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install Titles, as a stranger's package would."""
    folder = tmp_path / "site" / "titles-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "entry_points.txt").write_text("[codecdiff.captioners]\ntitles = titles:Titles\n")
    monkeypatch.setitem(sys.modules, "titles", sys.modules[__name__])
    monkeypatch.syspath_prepend(folder.parent)
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()


def rows(*titles: str) -> list[dict[str, Any]]:
    return [{"track": f"t{i}", "title": title} for i, title in enumerate(titles)]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def run(file: Path, tracks: list[dict[str, Any]], captioner: Captioner, **options: Any) -> dict[str, str]:
    with AppendLog(file) as log:
        return dict(write_captions(pending(tracks, log, captioner, **options), captioner, log).failures)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  a\tb \r\n c\u2028d ", "a b c d"),
        ("\x1b[31mred\x07\x9b2J", "[31mred 2J"),
        ("one\u202etwo\u200bthree\ufefffour", "one two three four"),
        ("lone \ud800 half", "lone half"),
        ("e\u0301", "\u00e9"),
        ("Señor 🎵 日本", "Señor 🎵 日本"),
        ("\x00\n", ""),
    ],
)
def test_text_becomes_one_harmless_line(text: str, line: str) -> None:
    assert one_line(text) == line
    assert one_line("word " * 9, 10) == "word word…"


def test_a_line_says_track_caption_and_captioner(tmp_path: Path) -> None:
    failures = run(tmp_path / "c.jsonl", rows("Día", "", "x" * MAX_CAPTION, " "), Titles(speed=2))
    made = {"name": "titles", "word": "called"}
    found = {line["track"]: line for line in lines(tmp_path / "c.jsonl")}
    assert found["t0"] == {"track": "t0", "caption": "called Día", "captioner": made}
    assert found["t1"] == {"track": "t1", "failure": "It has no title.", "captioner": made}
    assert "2007 characters" in found["t2"]["failure"]
    assert len(found["t2"]["failure"]) < 200
    assert found["t3"]["caption"] == "called"
    assert failures == {"t1": "It has no title.", "t2": found["t2"]["failure"]}


def test_a_run_goes_on_where_the_last_stopped(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    run(file, rows("a", ""), Titles())
    before = file.read_bytes()
    assert run(file, rows("a", ""), Titles(speed=3)) == {}  # neither is done again, whatever the speed
    assert file.read_bytes() == before
    run(file, rows("a", "", "c"), Titles())
    assert run(file, rows("a", "b", "c"), Titles(), retry_failures=True) == {}
    assert [(line["track"], line.get("caption")) for line in lines(file)] == [
        ("t0", "called a"),
        ("t1", None),
        ("t2", "called c"),
        ("t1", "called b"),
    ]
    assert read_captions([file]) == {"t0": ["called a"], "t2": ["called c"], "t1": ["called b"]}


def test_captions_of_another_captioner_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    run(file, rows("a"), Titles())
    with pytest.raises(ValueError, match="its word is 'called', not 'named'"):
        run(file, rows("a", "b"), Titles(word="named"))
    (tmp_path / "x.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(ValueError, match="line 1 is not a caption"):
        run(tmp_path / "x.jsonl", rows("a"), Titles())


class Failing(Titles):
    """Titles that lose their connection at one track, while others are under way."""

    stopped = False

    def caption(self, track: Mapping[str, Any]) -> str:
        if track["title"] == "cut":
            raise ConnectionError("The line is dead.")
        while track["title"] == "slow" and not self.stopped:
            time.sleep(0.01)
        return super().caption(track)

    def stop(self) -> None:
        self.stopped = True


def test_an_error_that_stops_a_run_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "codecdiff_datasets.captioning.caption_config", lambda captioner: {"name": "titles", "word": "called"}
    )
    file, captioner = tmp_path / "c.jsonl", Failing(speed=3)
    tracks = rows("a", "slow", "cut", *"defghijklmnop")
    with pytest.raises(ConnectionError, match="The line is dead"):
        run(file, tracks, captioner)
    assert {"t0", "t1"} <= {line["track"] for line in lines(file)}  # the slow one, under way, was let end
    assert len(lines(file)) < len(tracks) - 1
    run(file, [row for row in tracks if row["title"] != "cut"], Titles())
    assert sorted(line["track"] for line in lines(file)) == sorted(r["track"] for r in tracks if r["title"] != "cut")


class Counting(Titles):
    """Titles that count how many are asked for at once, and wait until as many are as may be."""

    def __init__(self, *, speed: int = 1) -> None:
        super().__init__(speed=speed)
        self.meeting = threading.Barrier(speed, timeout=20)
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def caption(self, track: Mapping[str, Any]) -> str:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.meeting.wait()
        with self.lock:
            self.now -= 1
        return super().caption(track)


def test_as_many_threads_ask_as_the_captioner_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecdiff_datasets.captioning.caption_config", lambda captioner: {"name": "titles"})
    captioner, done = Counting(speed=4), []
    with AppendLog(tmp_path / "c.jsonl") as log:
        write_captions(rows(*"abcdefghijkl"), captioner, log, progress=done.append)
    assert captioner.most == 4
    assert done == list(range(1, 13))


def test_a_captioner_is_recorded_by_what_its_captions_follow_from() -> None:
    assert caption_config(Titles(word="x", speed=9)) == {"name": "titles", "word": "x"}
    with pytest.raises(config.ConfigError, match=r"captioner\.answers follows"):
        config.build("captioners", {"name": "titles", "answers": "x"})


def test_captions_are_read_from_several_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"track": "1", "caption": "a"}\n{"track": "2", "failure": "x"}\n')
    (tmp_path / "b").write_text('{"track": "1", "caption": "b"}\n{"track": "2", "caption": "c", "more": 1}\n')
    captions = read_captions([tmp_path / "a", tmp_path / "b"])
    assert captions == {"1": ["a", "b"], "2": ["c"]}
    told = with_captions([{"track": "1", "captions": ["old"]}, {"track": "3", "captions": ["old"]}], captions)
    assert [row["captions"] for row in told] == [["a", "b"], []]


@pytest.mark.parametrize("line", ["nothing", "[]", '{"caption": "a"}', '{"track": 1}', '{"track": "a", "caption": 1}'])
def test_a_file_that_holds_no_captions_is_told(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"track": "1", "caption": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"x\.jsonl' line 2"):
        read_captions([tmp_path / "x.jsonl"])
    with pytest.raises(FileNotFoundError, match="codecdiff data caption"):
        read_captions([tmp_path / "none"])


def test_bills_add_up() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30, 0.5) == Usage(11, 22, 33, 0.5)
    assert (Usage() + Usage()).price is None
    assert str(Usage(1000, 2000, 3, 0.25)) == "1,000 requests, 2,000 tokens read and 3 written, for 0.25"


# The laws


def test_titles_obey_the_laws() -> None:
    check_captioner(Titles(speed=3), rows("a", "b"))


class Numbered(Titles):
    """Titles that count on."""

    count = 0

    def caption(self, track: Mapping[str, Any]) -> str:
        self.count += 1
        return f"{super().caption(track)} {self.count}"


class Wordy(Titles):
    """Titles in two lines."""

    def caption(self, track: Mapping[str, Any]) -> str:
        return f"{super().caption(track)}\nby nobody"


class Careless(Titles):
    """Titles for those who have none."""

    def caption(self, track: Mapping[str, Any]) -> str:
        return f"called {track.get('title')}"


class Constant(Titles):
    """One title for all."""

    def caption(self, track: Mapping[str, Any]) -> str:
        return "music"


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Numbered, "caption is not deterministic"),
        (Wordy, "one line"),
        (Careless, "without audio, tags"),
        (Constant, "the check is empty"),
    ],
)
def test_a_captioner_that_breaks_a_law_is_told(broken: type[Titles], law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_captioner(broken(), rows("a", "b"))


# The command


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    recordings = [ManifestRow(f"t{i}", title=title) for i, title in enumerate(("a", "", "c"))]
    Manifest(tmp_path, recordings).write(tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def command(*words: object) -> Any:
    return CliRunner().invoke(app, ["data", "caption", *map(str, words)])


def test_the_command_captions_and_goes_on(manifest: Path) -> None:
    output = manifest.with_name("c.jsonl")
    first = command(manifest, "-o", output, "--with", "titles", "--set", "word=named", "--set", "speed=2")
    assert first.exit_code == 0, first.output
    assert "t1: It has no title." in first.output
    assert f"2 captions and 1 failures in {output}." in first.output
    before = output.read_bytes()
    second = command(manifest, "-o", output, "--with", "titles", "--set", "word=named")
    assert f"0 captions and 0 failures in {output}, 3 were done before." in second.output
    assert output.read_bytes() == before
    assert sorted(file.name for file in manifest.parent.iterdir()) == ["c.jsonl", "m.parquet", "site"]


def test_captions_are_named_after_the_manifest_and_the_captioner(manifest: Path) -> None:
    command(manifest, "--with", "titles")
    assert manifest.with_name(f"{manifest.stem}-titles.jsonl").is_file()


def test_the_command_refuses_before_it_writes(manifest: Path) -> None:
    for words, told in (
        ([manifest, "-o", manifest, "--with", "titles"], "is not a JSON object"),
        ([manifest, "-o", manifest.with_name("c.jsonl"), "--with", "title"], "Did you mean 'titles'"),
        ([manifest, "-o", manifest.with_name("c.jsonl"), "--with", "titles", "--set", "wort=x"], "Did you mean 'word'"),
        ([manifest.with_name("n"), "-o", manifest.with_name("c.jsonl"), "--with", "titles"], "does not exist. Make"),
    ):
        result = command(*words)
        assert result.exit_code == 1
        assert told in result.output
        assert "Traceback" not in result.output
    assert Manifest.read(manifest).rows[0].title == "a"
    assert sorted(file.name for file in manifest.parent.iterdir()) == ["m.parquet", "site"]
