"""Files appear whole or not at all, and one process at a time holds a folder."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from codecdiff.data.audio_writer import write_audio
from codecdiff.errors import UnusableFile, UserError
from codecdiff.files import (
    DamagedFile,
    FolderLocked,
    atomic_folder,
    atomic_write,
    atomic_write_text,
    cached_checksum,
    checksum,
    clear_leftovers,
    lock_folder,
    make_folder,
    read_parquet,
    read_safetensors,
    require_writable,
    try_lock,
    write_parquet,
    write_safetensors,
)

WRITE = """
import os, sys
from codecdiff.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    os.read(0, 1)
"""
HOLD = """
import sys, time
from pathlib import Path
from codecdiff.files import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with atomic_write(file) as temporary:
        temporary.write_text("first")

    def fail() -> None:
        with atomic_write(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "first"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of what is flushed and renamed from now on."""
    calls: list[str] = []
    names: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "rename")}

    def opened(path: Any, *options: Any, **keywords: Any) -> int:
        descriptor = real["open"](path, *options, **keywords)
        names[descriptor] = "temporary" if ".partial" in Path(path).name else Path(path).name
        return descriptor

    def renamed(source: Any, target: Any) -> None:
        calls.append(f"rename {Path(target).name}")
        real["replace"](source, target)

    monkeypatch.setattr("os.open", opened)
    monkeypatch.setattr("os.fsync", lambda number: (calls.append(f"flush {names[number]}"), real["fsync"](number)))
    monkeypatch.setattr("os.replace", renamed)
    monkeypatch.setattr("os.rename", renamed)
    return calls


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_so_is_the_name(tmp_path: Path, disk: list[str]) -> None:
    with atomic_write(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("text")
    named = f"flush {tmp_path.name}"
    assert disk == [named, "flush temporary", "rename a.txt", "flush new"]
    disk.clear()
    with atomic_folder(tmp_path / "b") as temporary:
        (temporary / "c").mkdir()
        (temporary / "c" / "d.txt").write_text("text")
    assert disk == ["flush c", "flush d.txt", "flush temporary", "rename b", named]
    disk.clear()
    write_audio(tmp_path / "a.wav", torch.zeros(1, 80), 8000)
    write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    names = ("a.wav", "a.safetensors")
    assert disk == [call for name in names for call in ("flush temporary", f"rename {name}", named)]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a") as temporary:
            (temporary / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    atomic_write_text(tmp_path / "a.txt", "first")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(UserError, match=rf"a\.txt' cannot be written: {os.strerror(code)}\. Free space"):
        atomic_write_text(tmp_path / "a.txt", "second")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "first"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_audio_that_a_full_disk_cuts_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    write = soundfile.SoundFile.write
    monkeypatch.setattr(soundfile.SoundFile, "write", lambda sound, samples: write(sound, samples[:1000]))
    with pytest.raises(UserError, match=r"a\.\w+' cannot be written: only 1,000 of 1,001 samples are on the disk"):
        write_audio(tmp_path / f"a.{suffix}", torch.zeros(2, 1001), 8000)
    assert not list(tmp_path.iterdir())


def test_audio_that_the_disk_refuses_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*arguments: Any) -> None:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", write)
    with pytest.raises(UnusableFile, match=r"'.*a\.wav' cannot be written: System error\. Free space or use another"):
        write_audio(tmp_path / "a.wav", torch.zeros(1, 100), 8000)
    assert not list(tmp_path.iterdir())


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for use in (make_folder, require_writable, lambda folder: atomic_write_text(folder / "a.txt", "")):
        with pytest.raises(UnusableFile, match=r"link' links to '.*gone', which does not exist\. Make it, or choose"):
            use(tmp_path / "link" / "run")


def test_what_a_killed_process_left_is_deleted_and_what_another_writes_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        subprocess.Popen([*command, str(tmp_path / "a.txt")], **pipes) as killed,
        subprocess.Popen([*command, str(tmp_path / "b.txt")], **pipes) as writing,
    ):
        assert [process.stdout.read(7) for process in (killed, writing) if process.stdout] == [b"writing"] * 2
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        atomic_write_text(tmp_path / "c.txt", "whole")
        (other,) = set(tmp_path.iterdir()) - {tmp_path / "c.txt"}
        assert f"-{writing.pid}-" in other.name
        assert writing.stdin is not None
        writing.stdin.close()
        writing.wait()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"b.txt": "half", "c.txt": "whole"}


def test_whoever_holds_a_folder_clears_it(tmp_path: Path) -> None:
    for name in (".0badcafe-1-12345678.partial.wav", "a.wav", ".lock"):
        (tmp_path / name).touch()
    (tmp_path / "b" / ".0badcafe-1-12345678.partial" / "c").mkdir(parents=True)
    clear_leftovers(tmp_path)
    assert {file.name for file in tmp_path.rglob("*")} == {".lock", "a.wav", "b"}


def test_tensors_are_written_as_safetensors_writes_them(tmp_path: Path) -> None:
    values = torch.linspace(-3, 3, 24)
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    tensors = {f"a.{dtype}": values.to(dtype).view(2, 3, 4) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "view": values.view(4, 6).T}
    digest = write_safetensors(tmp_path / "ours", tensors, {"step": "7"})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs", {"step": "7"})
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size
    assert digest == hashlib.sha256((tmp_path / "ours").read_bytes()).hexdigest()
    back, metadata = read_safetensors(tmp_path / "ours")
    assert metadata == {"step": "7"}
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in back)


def test_every_byte_of_a_table_is_covered(tmp_path: Path) -> None:
    file, table = tmp_path / "t.parquet", pa.table({"a": [1, 2], "b": ["x", "y"]}).replace_schema_metadata({"k": "v"})
    write_parquet(file, table)
    assert read_parquet(file).equals(table, check_metadata=True)
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(bytes([*whole[:position], whole[position] ^ (1 << position % 8), *whole[position + 1 :]]))
        with pytest.raises(DamagedFile, match=r"t\.parquet"):
            read_parquet(file)
    file.write_bytes(whole)
    for other in (pq.read_table(file), pq.ParquetFile(file).read()):  # another program, which may keep the seal
        pq.write_table(other.slice(1), tmp_path / "other.parquet")
        assert read_parquet(tmp_path / "other.parquet").num_rows == 1


def test_one_process_holds_a_folder_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert try_lock(folder) is None
        with (
            pytest.raises(
                FolderLocked,
                match=rf"run' is being written by another run \(process {process.pid} on {platform.node()}, since "
                r"\d{4}-\d\d-\d\d [\d: +-]+\)\. Wait for it to end",
            ),
            lock_folder(folder),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with lock_folder(folder):
        assert try_lock(folder) is None
        assert not list(folder.iterdir())  # the lock is beside it
    held = try_lock(folder)
    assert held is not None
    held.close()
    assert [file.name for file in tmp_path.iterdir()] == ["run"]  # no lock stays


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOTSUP])
def test_a_folder_without_locks_is_used_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, "no lock here")

    monkeypatch.setattr("filelock.FileLock._acquire", fail)
    with lock_folder(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_checksum_is_computed_again_once_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = cached_checksum(file)
    assert first == checksum(file) == cached_checksum(file)
    file.write_bytes(b"other")
    assert cached_checksum(file) == checksum(file) != first
