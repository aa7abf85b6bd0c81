"""The laws of codecs, on a DAC of random weights."""

from pathlib import Path

from codecdiff_dac import DAC

from codecdiff.testing import check_codec
from codecdiff.testing.tiny import write_tiny


def test_dac_keeps_the_laws(tmp_path: Path):
    results = check_codec(DAC(str(write_tiny("dac", tmp_path))), seconds=0.2)
    assert {result.state for result in results} == {"passed"}
