"""Licences have one name each, filters keep what they say, and no artist crosses a split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from codecdiff_datasets.licenses import attribution, is_allowed, license_name, license_url
from codecdiff_datasets.splits import Filter, artist_of, artists_in_several_splits, fraction, split_by_artist

from codecdiff import Codec
from codecdiff.data.dataset import VALIDATION_SPLITS
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.manifest import Manifest, ManifestRow, split_name

NAMES = {
    ("Attribution-NonCommercial-ShareAlike 3.0 International", ""): "CC BY-NC-SA 3.0",
    ("Attribution-Noncommercial-Share Alike 3.0 United States", ""): "CC BY-NC-SA 3.0 US",
    ("Attribution-NonCommercial-NoDerivatives (aka Music Sharing) 3.0 International", ""): "CC BY-NC-ND 3.0",
    ("Attribution-Noncommercial-No Derivative Works 2.5 Generic", ""): "CC BY-NC-ND 2.5",
    ("Attribution", "http://creativecommons.org/licenses/by/4.0/"): "CC BY 4.0",
    ("Attribution 2.0 France", "http://creativecommons.org/licenses/by/2.0/fr/"): "CC BY 2.0 FR",
    ("x", "https://creativecommons.org/licenses/by-nc-sa/3.0/deed.en"): "CC BY-NC-SA 3.0",
    ("Creative Commons Attribution", ""): "CC BY",
    ("CC0 1.0 Universal", ""): "CC0 1.0",
    ("", "http://creativecommons.org/publicdomain/zero/1.0/"): "CC0 1.0",
    ("Public Domain Mark 1.0", ""): "Public Domain Mark 1.0",
    ("Public Domain", "http://creativecommons.org/licenses/publicdomain/"): "Public Domain",
    ("Sampling Plus", "http://creativecommons.org/licenses/sampling+/1.0/"): "CC Sampling+ 1.0",
    ("cc-by-nc-sa-4.0", ""): "CC BY-NC-SA 4.0",
    ("CC BY 3.0", ""): "CC BY 3.0",
    ("Public Domain / Sound ManifestRow  Common Check Protection", "http://freemusicarchive.org/Check"): (
        "Public Domain / Sound ManifestRow Common Check Protection"
    ),
    ("Apache 2.0", ""): "Apache 2.0",
    ("", ""): "",
}


@pytest.mark.parametrize(("title", "url"), NAMES, ids=lambda text: text[-30:])
def test_a_licence_has_one_short_name(title: str, url: str) -> None:
    name = NAMES[title, url]
    assert license_name(title, url) == name
    assert license_name(name) == name


@pytest.mark.parametrize("name", ["CC BY 4.0", "CC BY-NC-SA 3.0 US", "CC0 1.0", "Public Domain Mark 1.0"])
def test_the_address_of_a_licence_leads_back_to_its_name(name: str) -> None:
    assert license_name(url=license_url(name)) == name
    assert not license_url("Apache 2.0")


@pytest.mark.parametrize("name", ["valid", "val", "dev", "Validation", " eval"])
def test_what_is_held_out_under_another_name_is_held_out(name: str) -> None:
    assert split_name(name) in VALIDATION_SPLITS
    assert [split_name(other) for other in ("training", "fold1", "")] == ["train", "fold1", ""]


def test_a_pattern_matches_the_whole_name() -> None:
    names = ["CC BY 4.0", "CC BY-NC 3.0", "CC0 1.0", ""]
    assert [is_allowed(name, ["CC BY*"]) for name in names] == [True, True, False, False]
    assert [is_allowed(name, ["CC BY *"]) for name in names] == [True, False, False, False]
    assert is_allowed("CC BY", ["CC BY *"])  # published without a version
    assert not is_allowed("CC BY-NC", ["CC BY *"])
    assert [is_allowed(name, ["cc0*", "unknown"]) for name in names] == [False, False, True, True]
    assert all(is_allowed(name, []) for name in names)


def test_filters_keep_what_they_say() -> None:
    recordings = [
        ManifestRow("1", license="CC BY 4.0", split="train", tags={"genre": ["Rock"]}),
        ManifestRow("2", license="CC BY 4.0", split="test", tags={"mood/theme": ["rock"]}),
        ManifestRow("3", license="MIT", split="train", tags={"genre": ["rock"]}),
    ]

    def names(**filters: list[str]) -> list[str]:
        return [r.track for r in Filter(**filters)(recordings)]

    assert names() == ["1", "2", "3"]
    assert names(licenses=["CC*"], splits=["train"]) == ["1"]
    assert names(tags=["rock"]) == ["1", "2", "3"]
    assert names(tags=["genre=rock"]) == ["1", "3"]
    assert names(tags=["mood/theme=rock", "none"]) == ["2"]
    with pytest.raises(ValueError, match=r"Unknown split 'dev': expected one of train"):
        names(splits=["dev"])


def collection(artists: int = 400) -> list[ManifestRow]:
    named = [ManifestRow(f"{i}-{j}", artist=f"Artist {i}") for i in range(artists) for j in range(1 + i % 4)]
    return [*named, *(ManifestRow(f"nobody-{i}") for i in range(100))]


def test_no_artist_crosses_a_split() -> None:
    recordings = split_by_artist(collection(), validation=0.1, test=0.2, seed=3)
    assert not artists_in_several_splits(recordings)
    assert {r.split for r in recordings} == {"train", "validation", "test"}
    splits = Counter({artist_of(r): r.split for r in recordings}.values())
    assert splits["test"] / 500 == pytest.approx(0.2, abs=0.05)
    assert splits["validation"] / 500 == pytest.approx(0.1, abs=0.04)
    spelled = [ManifestRow("a", artist="Björk "), ManifestRow("b", artist="BJÖRK")]
    assert len({r.split for r in split_by_artist(spelled, validation=0.3, test=0.3)}) == 1


def test_a_split_follows_from_seed_and_artist_alone() -> None:
    whole = {r.track: r.split for r in split_by_artist(collection(), validation=0.1, test=0.1, seed=1)}
    part = split_by_artist(collection()[::-3], validation=0.1, test=0.1, seed=1)
    assert all(whole[r.track] == r.split for r in part)
    other = split_by_artist(collection(), validation=0.1, test=0.1, seed=2)
    assert any(whole[r.track] != r.split for r in other)


def test_published_splits_are_kept_and_followed() -> None:
    published = [
        ManifestRow("1", artist="a", split="test"),
        ManifestRow("2", artist="a"),
        ManifestRow("3", artist="b", split="train"),
        ManifestRow("4", artist="b", split="test"),
    ]
    again = split_by_artist(published, validation=0, test=0)
    assert [r.split for r in again] == ["test", "test", "train", "test"]
    assert artists_in_several_splits(again) == {"b": ["test", "train"]}
    assert {r.split for r in split_by_artist(published, validation=0, test=0, replace_published=True)} == {"train"}


def test_shares_are_read() -> None:
    assert (fraction("5%"), fraction("0.2"), fraction("0")) == (0.05, 0.2, 0.0)
    for wrong in ("5", "-1%", "half", "nan"):
        with pytest.raises(ValueError, match=r"write 5%"):
            fraction(wrong)
    with pytest.raises(ValueError, match="120% of the artists"):
        split_by_artist([], validation=0.6, test=0.6)


def test_everybody_is_credited() -> None:
    recordings = [
        ManifestRow("1", title="A [b] *c*", artist="Ann\nLee", license="CC BY 4.0", source="https://x.org/1"),
        ManifestRow("2", source="Musopen 43805"),
    ]
    text = attribution(recordings)
    assert "## CC BY 4.0 (1)\n\n<https://creativecommons.org/licenses/by/4.0/>" in text
    assert "- A \\[b\\] \\*c\\*, by Ann Lee. <https://x.org/1>\n" in text
    assert "## unknown (1)\n\n- 2. Musopen 43805\n" in text


def test_licences_go_from_the_manifest_to_the_facts_of_a_store(dac: Codec, music: Path, tmp_path: Path) -> None:
    licenses = ["CC BY 3.0", "CC0 1.0", ""]
    told = {"license_text": "as published"}
    recordings = [ManifestRow(f"t{i}", f"{i}.wav", True, license=x, metadata=told) for i, x in enumerate(licenses)]
    Manifest(music, recordings).write(tmp_path / "m.parquet")
    store, _ = encode_tracks(Manifest.read(tmp_path / "m.parquet").tracks(), tmp_path / "store", dac, {})
    assert [row["license"] for row in store.rows] == licenses
    facts = store.summary()
    assert facts["licenses"] == ["CC BY 3.0", "CC0 1.0"]
    assert set(facts["license_hours"]) == {"CC BY 3.0", "CC0 1.0", "unknown"}
