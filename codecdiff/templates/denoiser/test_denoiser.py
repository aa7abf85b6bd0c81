from functools import partial

import pytest
from codecdiff.testing import check_denoiser

from codecdiff_part_name import PartName

SMALL = {"width": 16, "depth": 3}


def test_it_passes_the_checks_of_a_denoiser():
    check_denoiser(partial(PartName, **SMALL), widths={"text": 6, "bpm": 4})


def test_it_passes_the_checks_without_context_and_conditions():
    check_denoiser(partial(PartName, **SMALL), widths={}, context_channels=0)


def test_it_rejects_an_odd_width():
    with pytest.raises(ValueError, match="width=3"):
        PartName(channels=1, context_channels=0, condition_widths={}, width=3)
