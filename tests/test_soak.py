"""A few inputs of every reader of files of strangers; `make soak` tries them at length."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("codecdiff_datasets")
pytest.importorskip("codecdiff_eval")
sys.path.insert(0, str(Path(__file__).parent / "soak"))

from fuzz import make_input, try_input
from readers import readers


def test_readers_answer_damage_with_a_sentence(tmp_path: Path) -> None:
    problems = []
    for i, reader in enumerate(readers(tmp_path / "valid")):
        for n in range(4):
            if problem := try_input(reader, tmp_path / str(i), make_input(reader, 0, n)):
                problems.append(f"{reader.name} input {n}: {problem}")
    assert not problems, "\n".join(problems)


def test_valid_inputs_are_read_and_other_exceptions_are_found(tmp_path: Path) -> None:
    valid = readers(tmp_path / "valid")
    reader = valid[0]
    for i, reader in enumerate(valid):
        folder = tmp_path / str(i)
        assert not try_input(reader, folder, reader.contents)
        reader.read(folder)  # without an error of any kind
    broken = type(reader)("x", b"", lambda folder: [][0])
    assert "IndexError" in try_input(broken, tmp_path / "x", b"")
    assert make_input(reader, 0, 7) == make_input(reader, 0, 7) != make_input(reader, 1, 7)
