"""Files appear whole or not at all, and one process at a time holds a folder."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codecdiff.files import FolderLocked, atomic_write, cached_checksum, checksum, lock_folder, try_lock

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


def test_one_process_holds_a_folder_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert try_lock(folder) is None
        with (
            pytest.raises(FolderLocked, match=r"run' is being written by another run\. Wait for it"),
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
