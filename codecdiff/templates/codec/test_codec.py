import pytest
import torch
from codecdiff.testing import check_codec

from codecdiff_part_name import PartName


def test_it_passes_the_checks_of_a_codec():
    check_codec(PartName(), seconds=1.0)


def test_each_codebook_reduces_the_error():
    codecs = [PartName(num_codebooks=count) for count in (1, 2, 3)]
    seconds = torch.arange(100 * codecs[0].hop_length) / codecs[0].sample_rate
    tone = 0.5 * torch.sin(2 * torch.pi * 220 * seconds)[None, None]
    errors = [float((codec.decode(codec.encode(tone)) - tone).square().mean()) for codec in codecs]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.1 * float(tone.square().mean())


def test_it_rejects_more_coefficients_than_samples():
    with pytest.raises(ValueError, match="hop_length=2"):
        PartName(hop_length=2, codebook_dim=3)
