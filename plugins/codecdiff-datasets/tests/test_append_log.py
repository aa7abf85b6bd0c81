"""A log keeps every line through a kill, and touches no file that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from codecdiff_datasets.append_log import AppendLog, read_rows


def rows(file: Path) -> list[dict[str, Any]]:
    with AppendLog(file) as log:
        return list(log.rows())


def test_lines_come_back_in_order_whatever_they_hold(tmp_path: Path) -> None:
    odd = [{"text": "Señor\n\x00\u2028 \ud800 \U0001f3b5"}, {"nested": {"list": [1, None, 2.5]}}, {}]
    with AppendLog(tmp_path / "new" / "j.jsonl") as log:
        for row in odd:
            log.add(row)
        assert list(log.rows()) == odd
    assert rows(tmp_path / "new" / "j.jsonl") == odd
    assert "Señor" in (tmp_path / "new" / "j.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("torn", [b'{"b": 2', b'{"b": "\xc3', b"{", b"\0\0\0\0", b'{"b": 2}\0\0'])
def test_a_torn_last_line_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    file.write_bytes(b'{"a": 1}\n' + torn)
    assert list(read_rows(file)) == [{"a": 1}]
    with AppendLog(file) as log:
        log.add({"c": 3})
    assert file.read_bytes() == b'{"a": 1}\n{"c": 3}\n'


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    file.write_bytes(b'{"a": 1}\n{"b": 2}')
    with AppendLog(file) as log:
        log.add({"c": 3})
    assert rows(file) == [{"a": 1}, {"b": 2}, {"c": 3}]


@pytest.mark.parametrize(
    ("held", "line"), [(b"a,b\n1,2\n", 1), (b"words", 1), (b'{"a": 1}\n[]\n', 2), (b'{"a": 1}\n{"b\n{}\n', 2)]
)
def test_a_file_of_something_else_is_told_and_left_alone(held: bytes, line: int, tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(held)
    with pytest.raises(ValueError, match=f"x.txt' line {line} is not a JSON object"):
        AppendLog(file)
    assert file.read_bytes() == held


def test_threads_share_a_log(tmp_path: Path) -> None:
    with AppendLog(tmp_path / "j.jsonl") as log:
        threads = [Thread(target=lambda i=i: [log.add({"i": i, "n": n}) for n in range(50)]) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [(row["i"], row["n"]) for row in rows(tmp_path / "j.jsonl")]
    assert sorted(found) == [(i, n) for i in range(8) for n in range(50)]


def test_two_runs_do_not_write_one_log(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    with AppendLog(file) as log:
        with pytest.raises(OSError, match="being written by another run"):
            AppendLog(file)
        log.add({"a": 1})
    assert rows(file) == [{"a": 1}]


def test_an_empty_log_leaves_no_file(tmp_path: Path) -> None:
    AppendLog(tmp_path / "j.jsonl").close()
    assert not (tmp_path / "j.jsonl").exists()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    code = f"""
import resource, signal
from codecdiff_datasets.append_log import AppendLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
log = AppendLog({str(file)!r})
log.add({{"a": "x" * 600}})
try:
    log.add({{"b": "y" * 600}})
except OSError:
    log.add({{"c": 1}})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [list(json.loads(line)) for line in file.read_text().splitlines()] == [["a"], ["c"]]
