"""Tiny models of random weights: written by name, and explained where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from codecdiff import config
from codecdiff.testing import tiny
from codecdiff.testing.tiny import write_tiny


def test_the_program_writes_a_model_that_its_part_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecdiff_dac")
    monkeypatch.setattr(sys, "argv", ["tiny", "dac", str(tmp_path), "--seed", "3"])
    tiny.main()
    codec = config.build("codecs", {"name": "dac", "model": str(tmp_path)})
    assert (codec.sample_rate, codec.num_codebooks) == (8000, 4)


def test_fields_of_the_configuration_can_be_changed(tmp_path: Path) -> None:
    pytest.importorskip("codecdiff_dac")
    write_tiny("dac", tmp_path, n_codebooks=2)
    assert config.build("codecs", {"name": "dac", "model": str(tmp_path)}).num_codebooks == 2


def test_parts_without_a_tiny_model_and_unknown_sizes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="No part named 'none' is installed"):
        write_tiny("none", tmp_path)
    with pytest.raises(LookupError, match=r"has no function `codecdiff\.config\.tiny`"):
        write_tiny("chunked", tmp_path)
    pytest.importorskip("codecdiff_dac")
    with pytest.raises(ValueError, match=r"Invalid size '11khz' of dac: see SIZES in codecdiff_dac\.config"):
        write_tiny("dac", tmp_path, size="11khz")
