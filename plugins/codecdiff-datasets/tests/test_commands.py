"""The commands that make a manifest and keep it in order, as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small import write_music
from typer.testing import CliRunner, Result

from codecdiff.cli.main import app
from codecdiff.data.manifest import Manifest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    music = write_music(tmp_path / "music", count=4, seconds=0.2)
    rows = [
        {
            "file_name": f"{i}.wav",
            "text": f"tone {i}",
            "license": f"CC BY{'-NC' * (i % 2)} 4.0",
            "artist": f"Artist {i}",
        }
        for i in range(4)
    ]
    (music / "metadata.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"file_name": "../out.wav"}])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, *, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["data", *line.split()])
    assert result.exit_code == code, result.output
    return result


def test_a_collection_goes_through_every_command(folder: Path) -> None:
    run("import folder music -o all.parquet --allow-license CC*")
    issue = json.loads((folder / "all.issues.jsonl").read_text())
    assert (issue["file"], issue["line"], issue["field"]) == ("metadata.jsonl", 5, "file_name")
    run("import folder music -o new/lists/all.parquet")
    run("filter all.parquet -o free.parquet --allow-license CC?BY?4*")
    assert [r.track for r in Manifest.read("free.parquet").rows] == ["0.wav", "2.wav"]
    assert "Artist 2" in (folder / "free.attribution.md").read_text()
    assert "Artist 1" not in (folder / "free.attribution.md").read_text()
    run("split free.parquet -o split.parquet --validation 0 --test 100%")
    (folder / "c.jsonl").write_text('{"track": "2", "caption": "new"}\n{"track": "9", "caption": "x"}\n')
    joined = run("join split.parquet c.jsonl -o joined.parquet")
    assert "1 of 2 rows match one track each, and changed 1 tracks; 1 match none" in joined.output
    recordings = Manifest.read("joined.parquet").rows
    assert [(list(r.captions), r.split) for r in recordings] == [(["tone 0"], "test"), (["tone 2", "new"], "test")]
    run("attribution joined.parquet -o credits.md")
    assert (folder / "credits.md").read_text() == (folder / "joined.attribution.md").read_text()
    assert "0 issues in 2 tracks" in run("check joined.parquet").output
    (folder / "music" / "2.wav").write_bytes(b"")
    shown = run("check joined.parquet", code=1).output
    assert "2.wav, file: It cannot be read as audio: it is empty, 0 bytes. Fetch it again" in shown
    assert not list(folder.glob(".*")) + list(folder.glob("*.audio-check.jsonl"))


def test_manifests_of_several_folders_become_one(folder: Path) -> None:
    write_music(folder / "deep" / "other", count=2, seconds=0.25)
    for file in sorted((folder / "deep" / "other").glob("*.wav")):
        file.rename(file.with_name(f"other-{file.name}"))
    (folder / "deep" / "other" / "metadata.jsonl").unlink()
    run("import folder music")
    run("import folder deep/other -o deep/other.parquet")
    assert "6 tracks in all.parquet" in run("merge music.parquet deep/other.parquet -o all.parquet").output
    tracks = Manifest.read("all.parquet").tracks()
    assert [track.file.resolve().relative_to(folder.resolve()).as_posix() for track in tracks] == [
        *(f"music/{i}.wav" for i in range(4)),
        *(f"deep/other/other-{i}.wav" for i in range(2)),
    ]
    assert list(tracks[1].captions) == ["tone 1"]
    assert "0 issues in 6 tracks" in run("check all.parquet").output
    repeated = run("merge music.parquet all.parquet -o twice.parquet", code=1)
    assert "4 tracks are in two manifests, such as '0.wav'" in repeated.output
    assert not Path("twice.parquet").exists()


def test_nothing_is_written_over_and_nothing_is_left_half(folder: Path) -> None:
    run("import folder music -o all.parquet")
    before = (folder / "all.parquet").read_bytes()
    for line in ("import folder music --split test", "filter new.parquet", "import folder music --decode full"):
        assert "exists already" in run(f"{line} -o all.parquet", code=1).stderr
    for line in ("filter all.parquet", "split all.parquet", "join all.parquet c.jsonl"):
        assert "is read, and would be overwritten" in run(f"{line} -o all.parquet", code=1).stderr
    assert "is complete" in run("import folder music -o all.parquet").output
    assert (folder / "all.parquet").read_bytes() == before
    run("import folder music -o all.parquet --allow-license CC?BY?4* --force")
    assert len(Manifest.read("all.parquet")) == 2
    run("import folder music -o all.parquet --force")
    assert (folder / "all.parquet").read_bytes() == before


def add(music: Path) -> None:
    write_music(music / "more", count=1, seconds=0.2)


def replace(music: Path) -> None:
    write_music(music.parent / "new", count=1, seconds=0.4)
    (music.parent / "new" / "0.wav").replace(music / "0.wav")


def damage(music: Path) -> None:
    (music / "1.wav").write_bytes(b"\0" * (music / "1.wav").stat().st_size)


def describe(music: Path) -> None:
    (music / "2.txt").write_text("calm")


def copy(music: Path) -> None:
    os.utime(music / "3.wav", (1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((change, "changed, added or removed since") for change in (add, replace, describe)),
        *((change, "copied or replaced since. Copied, it is still right") for change in (damage, copy)),
        (lambda music: (music / "0.wav").unlink(), "changed, added or removed since"),
    ],
)
def test_a_folder_that_changed_since_it_was_imported_is_noticed(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    run("import folder music -o music/all.parquet")  # what is written there is not read
    run("split music/all.parquet")
    (folder / "music" / "cover.jpg").write_bytes(b"a")
    assert "is complete" in run("import folder music -o music/all.parquet").output
    change(folder / "music")
    errors = run("import folder music -o music/all.parquet", code=1).stderr
    assert message in errors
    assert "--force" in errors
    run("import folder music -o music/all.parquet --force")
    assert "is complete" in run("import folder music -o music/all.parquet").output


def test_audio_that_was_added_to_published_tables_is_noticed(folder: Path) -> None:
    (folder / "audio").mkdir()
    columns = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
    (folder / "tags.tsv").write_text(f"{columns}\ntrack_0000001\ta\tb\t0.wav\t0.2\tgenre---rock\n")
    command = "import jamendo tags.tsv --audio audio -o all.parquet"
    run(command)
    assert "is complete" in run(command).output
    write_music(folder / "audio", count=1, seconds=0.2)
    assert "added" in run(command, code=1).stderr
    run(f"{command} --force")
    assert Manifest.read("all.parquet").rows[0].present


def test_pipes_and_folders_in_place_of_files_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "a.parquet")
    assert "exists already" in run("import folder music -o a.parquet", code=1).stderr
    os.mkfifo(folder / "b.audio-check.jsonl")
    run("import folder music -o b.parquet", code=0)
    assert "exists already" in run("attribution b.parquet -o /dev/full", code=1).stderr
    (folder / "deb").mkdir()
    os.mkfifo(folder / "deb" / "a_1.deb")
    assert "a_1.deb' cannot be read: it is" in run("import game-music deb -o c.parquet", code=1).stderr
    result = CliRunner().invoke(app, ["data", "import", "folder", "", "-o", "d.parquet"])
    assert "SOURCE of 'folder' is empty" in result.stderr
    assert "music/0.wav' is a file" in run("import hf music/0.wav -o d.parquet", code=1).stderr


def test_a_table_without_a_row_that_can_be_read_is_refused_with_the_reason(folder: Path) -> None:
    run("import folder music -o a.parquet")
    (folder / "b.jsonl").write_text('{"track": "0.wav", "bpm": ' + "9" * 4500 + "}\n")
    said = run("join a.parquet b.jsonl", code=1).stderr
    assert "'b.jsonl' holds no row that can be read" in said
    assert "b.jsonl, line 1: It is not valid JSON" in said
    (folder / "c.jsonl").write_text(json.dumps({"track": "x" * 10_000, "text": "y"}))
    assert len(run("join a.parquet c.jsonl", code=1).stderr) < 300
    os.mkfifo(folder / "d.csv")
    assert "d.csv' is a pipe or a device" in run("join a.parquet d.csv", code=1).stderr


def test_a_working_folder_that_was_deleted_is_an_error(folder: Path) -> None:
    (folder / "gone").mkdir()
    program = "import os, sys; os.rmdir(os.getcwd()); from codecdiff.cli.main import main; main()"
    command = [sys.executable, "-c", program, "data", "import", "folder", str(folder / "music")]
    result = subprocess.run(command, cwd=folder / "gone", capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert result.stderr == "The working folder does not exist any more: change to another.\n"


def test_outputs_are_named_after_what_is_read(folder: Path) -> None:
    run("import folder music")
    run("filter music.parquet")
    run("split music.parquet")
    (folder / "c.jsonl").write_text('{"track": "2", "caption": "new"}\n')
    run("join music.parquet c.jsonl")
    run("attribution music.parquet")
    names = ["music-filtered.parquet", "music-joined.parquet", "music-split.parquet", "music.parquet"]
    assert sorted(file.name for file in folder.glob("*.parquet")) == names
    (folder / "ATTRIBUTION.md").write_text("mine")
    assert "--force" in run("attribution music.parquet", code=1).stderr
    assert (folder / "ATTRIBUTION.md").read_text() == "mine"
    run("attribution music.parquet --force")
    assert (folder / "ATTRIBUTION.md").read_text() == (folder / "music.attribution.md").read_text()


def test_a_command_that_was_killed_can_be_run_again_at_any_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation on a file is a point; the disk is left as it is there, as by SIGKILL."""
    run("import folder music -o whole.parquet")
    expected = {file.suffix: file.read_bytes() for file in folder.glob("whole.*") if file.suffix != ".parquet"}
    rows = Manifest.read("whole.parquet").rows
    points = [0]

    class Killed(BaseException):
        pass

    replace = os.replace

    def killing(before: str, after: str) -> None:
        for moment in ("before", "after"):
            points[0] -= 1
            if points[0] == 0:
                raise Killed
            if moment == "before":
                replace(before, after)

    monkeypatch.setattr("os.replace", killing)
    number = 0
    for number in range(1, 100):
        points[0] = number
        try:
            ended = CliRunner().invoke(app, ["data", "import", "folder", "music", "-o", "all.parquet"])
        except Killed:
            ended = None
        points[0] = 0
        assert run("import folder music -o all.parquet").exit_code == 0
        assert Manifest.read("all.parquet").rows == rows
        assert {
            file.suffix: file.read_bytes() for file in folder.glob("all.*") if file.suffix != ".parquet"
        } == expected
        for file in folder.glob("all.*"):
            file.unlink()
        if ended and ended.exit_code == 0:
            break
    assert number > 4


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    run("import folder music -o all.parquet")
    refused = run("filter all.parquet -o x.parquet --allow-license MIT", code=1).stderr
    assert "None of 4 tracks is left. Allow one of their licenses (CC BY 4.0, CC BY-NC 4.0)" in refused
    Path("c.jsonl").write_text('{"track": "9", "caption": "x"}\n')
    assert "None of 1 rows matches one track" in run("join all.parquet c.jsonl -o x.parquet", code=1).stderr
    assert "are for hf" in run("import folder music -o x.parquet --column text", code=1).stderr
    assert "has to end in .parquet" in run("filter all.parquet -o x.csv", code=1).stderr
    assert "none, ends or full" in run("check all.parquet --decode half", code=1).stderr
    assert not list(folder.glob("x.*"))


def test_names_that_others_chose_cannot_steer_the_terminal(folder: Path) -> None:
    rows = [{"file_name": "0.wav", "license": "free \x1b[2J\x1b]0;mine\x07", "tags": ["\x9b31m", "rock"]}]
    (folder / "music" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shown = run("import folder music -o all.parquet").output + run("stats all.parquet").output
    assert "free \ufffd[2J" in shown
    assert "\ufffd31m" in shown
    assert not {"\x1b", "\x9b", "\x07"} & set(shown)


@pytest.mark.parametrize(
    "command", ["", "import", "filter", "split", "join", "merge", "attribution", "check", "stats", "rank"]
)
def test_help_is_whole_on_a_narrow_terminal(command: str) -> None:
    shown = CliRunner().invoke(app, ["data", *command.split(), "--help"], env={"COLUMNS": "80"}).output
    assert max(map(len, shown.splitlines())) <= 80
    assert "..." not in shown.replace("[ARGS]...", "").replace("SOURCE...", "").replace("MANIFEST...", "")
    assert not re.findall(r"<\w+>", shown)  # a placeholder is a word in capitals


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from codecdiff.cli.main import app;"
        "run = lambda *words: CliRunner().invoke(app, ['data', *words, '--help']).exit_code;"
        "print([run(), run('import'), run('rank')],"
        "sorted({'torch', 'numpy', 'pyarrow', 'sklearn', 'transformers', 'httpx2'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[0, 0, 0] []"
