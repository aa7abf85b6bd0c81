import pytest
from codecdiff.testing import check_conditioner

from codecdiff_part_name import PartName


def test_it_passes_the_checks_of_a_conditioner():
    check_conditioner(PartName(), prompts=[{"bpm": 90}, {"bpm": 120.5}, {"bpm": "60"}])


def test_similar_tempos_have_similar_features():
    condition = PartName().encode([{"bpm": bpm} for bpm in (90, 91, 180)])
    slow, alike, fast = condition["bpm"].tokens[:, 0]
    assert (slow - alike).norm() < (slow - fast).norm()


def test_a_text_has_no_number():
    assert not PartName().encode(["a slow tune"])["bpm"].mask.any()


@pytest.mark.parametrize("value", ["fast", "nan", [1]])
def test_it_rejects_values_that_are_not_numbers(value: object):
    with pytest.raises(ValueError, match="expected a number"):
        PartName().encode([{"bpm": value}])
