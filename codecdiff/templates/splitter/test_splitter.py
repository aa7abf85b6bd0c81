import pytest
import torch
from codecdiff.testing import check_splitter

from codecdiff_part_name import PartName


@pytest.mark.parametrize(("every", "num_codebooks"), [(2, 9), (2, 2), (3, 8), (1, 4)])
def test_it_passes_the_checks_of_a_splitter(every: int, num_codebooks: int):
    check_splitter(PartName(every=every, num_codebooks=num_codebooks))


def test_every_other_codebook_comes_first():
    latents = torch.arange(5.0).view(1, 5, 1, 1)
    first, second = PartName(num_codebooks=5).split(latents)
    assert first.flatten().tolist() == [0, 2, 4]
    assert second.flatten().tolist() == [1, 3]


def test_it_rejects_more_stages_than_codebooks():
    with pytest.raises(ValueError, match="every=3"):
        PartName(every=3, num_codebooks=2)
