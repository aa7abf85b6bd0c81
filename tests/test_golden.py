"""What shipped models generate does not change unnoticed: the codes of one prompt and seed, and levels of its audio."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import golden
import pytest
import torch

import codecdiff
from codecdiff.data.sealed import FILES, SEAL
from codecdiff.errors import InvalidValue
from codecdiff.pipeline.hub import find_model
from codecdiff.training import read_logs

MODELS = golden.shipped()
LEVELS = 0.5  # dB, what other rounding may make of levels in bands, where codes are the same


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_generates_what_it_did(name: str) -> None:
    expected = json.loads(golden.FILE.read_text()).get(name)
    assert expected, f"'{name}' is new: python tests/golden.py"
    result = golden.golden(name)
    codes, decibels = golden.drift(expected, result)
    places = [f"torch {each['torch']} on {each['backend']}" for each in (result, expected)]
    report = (
        f"'{name}' generates other music: {codes:.2%} of its codes differ, levels by up to {decibels:.1f} dB, with "
        f"{places[0]} (written with {places[1]}). If that is on purpose: python tests/golden.py. Since when: git log "
        "tests/golden.json."
    )
    assert codes <= (0.0 if places[0] == places[1] else golden.OTHER_BACKEND), report
    assert codes > 0 or decibels <= LEVELS, report


@pytest.mark.parametrize("name", MODELS[:1])
def test_a_drift_is_measured(name: str) -> None:
    expected = json.loads(golden.FILE.read_text())[name]
    assert golden.drift(expected, expected) == (0, 0)
    other, louder = deepcopy(expected), deepcopy(expected)
    other["codes"][0][0] += 1
    louder["levels"][3][1] += 2
    assert golden.drift(expected, other)[0] == pytest.approx(1 / torch.tensor(expected["codes"]).numel())
    assert golden.drift(expected, louder)[1] == pytest.approx(2)
    assert golden.drift(expected, {**other, "codes": other["codes"][1:]})[0] == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_has_checksums_and_so_has_what_would_replace_it(name: str, tmp_path: Path) -> None:
    descriptions = [find_model(name) / "codecdiff.json", *find_model(name).glob("*/stage.json")]
    specs = {file: json.loads(file.read_text()) for file in descriptions}
    if specs[descriptions[0]]["format"] > 1:  # those of version 0.1 have none
        for file, spec in specs.items():
            assert spec[SEAL], f"{file}: write it by pipe.save_pretrained(folder, dtype=torch.float16)"
            assert all((file.parent / weights).is_file() for weights in spec[FILES])
            logs = {log.name for log in file.parent.glob("*.jsonl")}
            assert file.name != "stage.json" or spec[FILES].keys() >= {"model.safetensors", *logs}
    codecdiff.load(name).save_pretrained(tmp_path, dtype=torch.float16)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} - {"log.jsonl"} == {
        "codecdiff.json",
        "generation_config.json",
        "stage.json",
        "model.safetensors",
    }
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(InvalidValue, match=f"{file.parent.name}/{file.name}"):  # noqa: PT012  # a log is read apart
            codecdiff.load(tmp_path)
            read_logs(tmp_path, [file.parent.name])
        file.write_bytes(whole)
    assert codecdiff.load(tmp_path).stage_names
