"""The laws of codecs, on a DAC of random weights."""

from pathlib import Path

from codecdiff_dac import DAC
from codecdiff_dac.random_weights import random_model

from codecdiff.testing import check_codec


def test_dac_keeps_the_laws(tmp_path: Path):
    results = check_codec(DAC(str(random_model(tmp_path))), seconds=0.2)
    assert {result.state for result in results} == {"passed"}
