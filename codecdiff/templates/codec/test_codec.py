import pytest
import torch
from codecdiff.testing import check_codec

from codecdiff_part_name import PartName


def test_it_passes_the_checks_of_a_codec():
    check_codec(PartName(), seconds=1.0)


def test_each_codebook_brings_it_nearer():
    tone = 0.5 * torch.sin(torch.arange(800) * 2 * torch.pi * 220 / 8000)[None, None]
    codecs = [PartName(num_codebooks=count) for count in (1, 2, 3)]
    errors = [float((codec.decode(codec.encode(tone)) - tone).square().mean()) for codec in codecs]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.1 * float(tone.square().mean())


def test_it_refuses_more_coefficients_than_it_has_samples():
    with pytest.raises(ValueError, match="hop_length=2"):
        PartName(hop_length=2, codebook_dim=3)
