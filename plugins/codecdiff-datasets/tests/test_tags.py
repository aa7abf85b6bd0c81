"""Tags as one line: the paper's form, in an order of its own, whatever the tags hold."""

from __future__ import annotations

import pytest
from codecdiff_datasets.captioners.tags import Tags, summarize_tags
from codecdiff_datasets.testing import check_captioner


@pytest.mark.parametrize(
    ("tags", "line"),
    [
        ({"genre": ["classical"], "instrument": ["harp"]}, "Genre: classical; instruments: harp"),
        (
            {"instrument": ["harp", "violin"], "genre": ["folk", "rock"]},
            "Genres: folk, rock; instruments: harp, violin",
        ),
        ({"mood/theme": ["calm"], "genre": []}, "Mood or theme: calm"),
        ({"mood/theme": ["calm", "film"], "genre": ["jazz"]}, "Genre: jazz; mood or theme: calm, film"),
        ({"zone": ["x"], "era": ["1920s", "1930s"], "genre": ["jazz"]}, "Genre: jazz; eras: 1920s, 1930s; zone: x"),
        ({"genre": ["Rock", "rock", " ROCK ", "Hip-Hop"]}, "Genres: Rock, Hip-Hop"),
        ({"Genre": ["rock"], "genre": ["folk", "rock"]}, "Genres: rock, folk"),
        ({"genre": ["a; b", "c,d", "e\nf", "\x1b[31mred", "", "  "]}, "Genres: a b, c d, e f, [31mred"),
        ({"themes": ["a", "b"]}, "Themes: a, b"),
        ({"genre": [""], "instrument": ()}, ""),
        ({}, ""),
    ],
)
def test_tags_are_summarize_tags(tags: dict[str, list[str]], line: str) -> None:
    assert summarize_tags(tags) == line


def test_the_first_tags_of_a_category_are_named() -> None:
    track = {"tags": {"genre": [f"g{i}" for i in range(20)], "instrument": ["harp"]}}
    assert Tags(most=2).caption(track) == "Genres: g0, g1; instruments: harp"
    with pytest.raises(ValueError, match="most is 0"):
        Tags(most=0)


def test_a_track_without_tags_is_told() -> None:
    for track in ({}, {"tags": {}}, {"tags": {"genre": [" "]}}):
        with pytest.raises(LookupError, match="no tags"):
            Tags().caption(track)


def test_tags_obey_the_laws() -> None:
    check_captioner(Tags(), [{"tags": {"genre": ["jazz"]}}, {"tags": {"genre": ["folk"], "mood/theme": ["calm"]}}])
