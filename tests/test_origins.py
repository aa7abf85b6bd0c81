"""Whose code parts are, and what is said when it was edited between two runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from small import rewrite
from toys import SPLITTER

import codecdiff
from codecdiff import Pipeline
from codecdiff.codecs import NormalizedCodec
from codecdiff.pipeline.code_version import code_versions, warn_of_code_changes


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the module of a part that nobody has registered, on the path."""
    (tmp_path / "toy_origin.py").write_text(SPLITTER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_origin", raising=False)
    return tmp_path / "toy_origin.py"


def test_other_sources_are_another_origin_once_they_are_imported(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = import_module("toy_origin").Toy(num_codebooks=2)
    before = code_versions(part)
    assert before.keys() == {"toy_origin.Toy"}
    toy.write_text(f"{SPLITTER}\n# edited")
    assert code_versions(part, None) == before  # what runs is not what was edited since
    monkeypatch.delitem(sys.modules, "toy_origin")
    after = code_versions(import_module("toy_origin").Toy(num_codebooks=2))
    assert after.keys() == before.keys()
    assert after != before
    with pytest.warns(UserWarning, match=r"has changed since .*: toy_origin\.Toy \(toy_origin, \w+ then, .* now\)"):
        warn_of_code_changes(before, after, toy.parent)


@pytest.mark.filterwarnings("error")
def test_what_was_not_recorded_may_be_any() -> None:
    warn_of_code_changes({"a.B": "a 1.0"}, {"a.B": "a 1.0", "c.D": "c 2.0"}, Path("model"))


def test_parts_inside_of_others_are_among_them(dac: codecdiff.Codec) -> None:
    found = code_versions(NormalizedCodec(dac))
    assert found["codecdiff.codecs.normalized.NormalizedCodec"].startswith(f"codecdiff {codecdiff.__version__}, ")
    assert found[f"{type(dac).__module__}.DAC"].startswith("codecdiff-dac ")


def test_a_model_that_goes_on_with_other_code_is_told(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    file = tmp_path / "codecdiff.json"
    spec = json.loads(file.read_text())
    name = next(iter(spec["code"]))
    rewrite(file, {**spec, "code": {**spec["code"], name: "codecdiff-bands 0.1.0, 0"}})
    with pytest.warns(UserWarning, match=rf"{name} \(codecdiff-bands 0\.1\.0, 0 then"):
        make_pipeline().save_pretrained(tmp_path)
    rewrite(file, {key: value for key, value in spec.items() if key != "code"})
    make_pipeline().save_pretrained(tmp_path)  # of an older codecdiff
