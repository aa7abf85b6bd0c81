"""Debian packages of game music become a manifest with titles, artists and licenses, and credits to give."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from codecdiff_datasets.importers import game_music
from codecdiff_datasets.importers.debian import read_copyright, rights_of, unpack
from debian_packages import COPYRIGHT, deb, ogg
from typer.testing import CliRunner, Result

from codecdiff.cli.main import app
from codecdiff.data.manifest import Manifest
from codecdiff.errors import InvalidValue

MUSIC = "usr/share/games/game/data/music"
NOTICE = "usr/share/doc/hyperrogue-music/copyright"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a package with a copyright file for machines, and one for people with music in an archive."""
    folder = tmp_path_factory.mktemp("debs")
    files: dict[str, Any] = {
        NOTICE: COPYRIGHT.encode(),
        f"{MUSIC}/forest.ogg": ogg(title="In the forest", artist="Ann", genre="Ambient", comment="day"),
        f"{MUSIC}/sea_2.ogg": ogg(hertz=300, genre="(None)"),
        f"{MUSIC}/desert.ogg": ogg(hertz=400),
        f"{MUSIC}/tagged.ogg": ogg(hertz=500, title="Same", license="http://creativecommons.org/licenses/by/4.0/"),
        f"{MUSIC}/plain.ogg": ogg(hertz=600, title="Same"),
        f"{MUSIC}/jingle.ogg": ogg(seconds=3),
        f"{MUSIC}/link.ogg": Path("forest.ogg"),
        f"{MUSIC}/readme.txt": b"no music",
        "usr/share/games/game/sounds/long.ogg": ogg(),
    }
    deb(folder, "hyperrogue-music", files)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as pk3:
        pk3.writestr(
            "music/hall.ogg", ogg(hertz=700, title="Hall", license="http://creativecommons.org/licenses/by/3.0/")
        )
        pk3.writestr("music/", b"")
        pk3.writestr("../../../../../../../music/out.ogg", ogg(hertz=800))
        pk3.writestr("sound/hall.ogg", b"")
    files = {
        "usr/share/doc/ufoai-music/copyright": b"This package was debianized by someone.\n\nLicense: free\n",
        "usr/share/games/ufo/0music.pk3": archive.getvalue(),
        "usr/share/games/ufo/music/theme.ogg": ogg(hertz=900),
        "../music/evil.ogg": ogg(),
        "/music/evil.ogg": ogg(),
    }
    deb(folder, "ufoai-music", files, "zst")
    return folder


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["data", "import", "game-music", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.integration
def test_a_package_that_would_fill_the_disk_or_names_a_file_as_a_folder_is_refused(tmp_path: Path) -> None:
    silence = b"\0" * 2**25
    packages = {
        "far more than its size": {f"usr/music/{i}.ogg": silence for i in range(9)},
        "in a file, or a folder": {"usr/music/a.ogg": b"a", "usr/music/a.ogg/b.ogg": b"b"},
    }
    for message, files in packages.items():
        package = deb(tmp_path / "packages", "game", files, "gz")
        with pytest.raises(InvalidValue, match=f"not a whole Debian package.*{message}"):
            unpack(package, tmp_path / "out", lambda path: True)
        assert not (tmp_path / "out").exists()


def test_packages_become_a_manifest_with_licenses_and_credits(packages: Path, tmp_path: Path) -> None:
    output = run(packages).output
    manifest = Manifest.read("game-music.parquet")
    rows = {Path(row.file).stem: row for row in manifest.rows}
    assert {name: (row.license, row.artist) for name, row in rows.items()} == {
        "forest": ("CC BY-SA 3.0", "Ann"),
        "sea_2": ("CC BY-SA 3.0", "Ann Other, Bo Third"),
        "desert": ("CC0 1.0", ""),
        "tagged": ("CC BY 4.0", ""),
        "plain": ("GPL-3+", ""),
        "hall": ("CC BY 3.0", ""),
        "theme": ("", ""),
    }
    assert all(row.present and row.seconds == pytest.approx(21, abs=0.1) for row in rows.values())
    forest = rows["forest"]
    assert (forest.title, dict(forest.tags), list(forest.captions)) == (
        "In the forest",
        {"genre": ["Ambient"]},
        ["Genre: Ambient"],
    )
    assert forest.source == "https://packages.debian.org/hyperrogue-music"
    assert forest.metadata["game"] == "HyperRogue"
    holders = "2012 Ann Other (http://ann.example); (c) 2013, 2014 Bo Third <bo@example.org>"
    assert forest.metadata["copyright"] == holders
    assert (rows["sea_2"].title, dict(rows["sea_2"].tags), list(rows["sea_2"].captions)) == ("sea 2", {}, [])
    assert (rows["plain"].title, rows["tagged"].title) == ("plain", "tagged")  # their titles are the same
    assert manifest.file_of(forest) == Path("game-music/hyperrogue-music") / MUSIC / "forest.ogg"
    credits = Path("game-music.attribution.md").read_text()
    assert "In the forest, by Ann. <https://packages.debian.org/hyperrogue-music>" in credits
    assert "## CC BY-SA 3.0 (2)" in credits
    assert "1 files last less than 20 s" in output
    assert "ufoai-music: Its copyright file cannot be read by a machine" in output
    assert {file.name for file in Path("game-music").rglob("*") if file.is_file()} == {
        *(Path(row.file).name for row in rows.values()),
        "jingle.ogg",
        "copyright",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["game-music", "game-music.parquet", "game-music.attribution.md", "game-music.issues.jsonl"]
    )
    assert not list(tmp_path.parent.rglob("evil.ogg")) + list(tmp_path.parent.rglob("out.ogg"))
    assert "is complete" in run(packages).output


def test_packages_that_are_extracted_are_read_where_they_are(packages: Path) -> None:
    run(packages, "-o", "unpacked.parquet", "--audio", "place")
    run("place", "-o", "read.parquet")
    unpacked, again = Manifest.read("unpacked.parquet"), Manifest.read("read.parquet")
    assert list(unpacked.rows) == list(again.rows)
    run("place/ufoai-music", "-o", "one.parquet")
    assert {row.title for row in Manifest.read("one.parquet").rows} == {"Hall", "theme"}


def test_an_import_that_stopped_unpacks_only_what_is_missing(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[str] = []

    def failing(package: Path, *rest: Any) -> None:
        unpacked.append(package.name.split("_")[0])
        if len(unpacked) == 2:
            raise KeyboardInterrupt
        unpack(package, *rest)

    monkeypatch.setattr(game_music, "unpack", failing)
    CliRunner().invoke(app, ["data", "import", "game-music", str(packages)])
    assert not Path("game-music.parquet").exists()
    run(packages)
    assert unpacked == ["hyperrogue-music", "ufoai-music", "ufoai-music"]
    assert len(Manifest.read("game-music.parquet")) == 7


@pytest.mark.parametrize("size", [3, 40, 100, 3000, -2000, -1])
def test_a_package_that_is_cut_off_leaves_nothing(packages: Path, tmp_path: Path, size: int) -> None:
    whole = (packages / "hyperrogue-music_1.0-1_all.deb").read_bytes()
    cut = tmp_path / "hyperrogue-music_1_all.deb"
    cut.write_bytes(whole[:size])
    with pytest.raises(InvalidValue, match="is not a whole Debian package"):
        unpack(cut, tmp_path / "out", game_music.is_music)
    assert [path.name for path in tmp_path.iterdir()] == [cut.name]


def test_other_bytes_are_no_package(tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4" * 100, b"!<arch>\n" + b"x" * 60, b"!<arch>\n" + b"debian-binary".ljust(60, b" ")):
        (tmp_path / "ufoai-music_1_all.deb").write_bytes(content)
        assert "is not a whole Debian package" in run("ufoai-music_1_all.deb", code=1).stderr


# apt


FAKE_APT = f"""#!{sys.executable}
import os, shutil, sys
from pathlib import Path
assert "download" in sys.argv, sys.argv
package = sys.argv[-1]
Path(os.environ["FETCHED"]).open("a").write(package + "\\n")
files = list(Path(os.environ["ARCHIVE"]).glob(package + "_*.deb"))
if os.environ.get("NETWORK") == "down":
    sys.exit("E: Failed to fetch http://deb.debian.org/x.deb  Temporary failure\\nE: Unable to fetch")
if not files:
    sys.exit("WARNING: apt\\nE: Unable to locate package " + package)
shutil.copy(files[0], ".")
"""


@pytest.fixture
def apt(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program called apt-get first, which has two packages."""
    tools = tmp_path.parent / f"{tmp_path.name}-tools"
    tools.mkdir()
    (tools / "apt-get").write_text(FAKE_APT)
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("ARCHIVE", str(packages))
    monkeypatch.setenv("FETCHED", str(tools / "fetched"))
    return tools / "fetched"


def test_packages_are_fetched_by_name(apt: Path, tmp_path: Path) -> None:
    output = run("hyperrogue-music", "naev-data").output
    assert "naev-data: apt does not know 'naev-data': update its lists by apt-get update." in output
    assert len(Manifest.read("game-music.parquet")) == 5
    assert sorted(path.name for path in Path("game-music").iterdir()) == ["hyperrogue-music"]
    run("ufoai-music", "hyperrogue-music", "-o", "both.parquet")
    assert apt.read_text().split() == ["hyperrogue-music", "naev-data", "ufoai-music"]
    assert len(Manifest.read("both.parquet")) == 7


@pytest.mark.integration
def test_without_a_name_every_package_of_the_table_is_fetched(apt: Path) -> None:
    run()
    assert apt.read_text().split() == list(game_music.PACKAGES)
    assert len(Manifest.read("game-music.parquet")) == 7


def test_what_is_missing_is_said_in_a_sentence(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWORK", "down")
    said = run("hyperrogue-music", code=1).stderr
    assert said.startswith("'hyperrogue-music' cannot be fetched: Failed to fetch http://deb.debian.org/x.deb")
    assert "Check the network. Or fetch .deb files from packages.debian.org, and name their folder." in said
    assert "neither a .deb file" in run("bash", code=1).stderr
    assert apt.read_text().split() == ["hyperrogue-music"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "this machine has no apt-get. Or fetch .deb files" in run("hyperrogue-music", code=1).stderr
    (tmp_path / "empty").mkdir()
    assert "No package in empty" in run("empty", code=1).stderr
    assert "'gone.deb' does not exist" in run("gone.deb", code=1).stderr
    assert not list(tmp_path.glob("*.parquet"))


# Copyright files


def test_the_last_of_the_paragraphs_that_match_best_counts() -> None:
    rights = read_copyright(COPYRIGHT)
    assert [each.is_specific for each in rights] == [False, True, True, True]

    def license_of(path: str, *more: str) -> str:
        text = "".join(f"\n\nFiles: {pattern}\nLicense: {pattern}" for pattern in more)
        found = rights_of(f"usr/share/{path}", read_copyright(COPYRIGHT + text), "music")
        return found.license if found else "none"

    assert license_of("game/data/music/forest.ogg") == "CC-BY-SA-3.0"
    assert license_of("game/data/music/sea/deep.ogg") == "CC-BY-SA-3.0"  # * matches slashes
    assert license_of("supertux2/music/sea.ogg") == "CC-BY-SA-3.0"  # data was renamed
    assert license_of("game/tunes/forest.ogg") == "CC-BY-SA-3.0"  # by its name alone
    assert license_of("game/music/desert.ogg") == "CC0-1.0"
    assert license_of("game/music/other.ogg") == "GPL-3+"
    assert license_of("game/music/other.ogg", "data/music/*", "src/*") == "data/music/*"
    assert license_of("game/data/music/other.ogg", "tests/data/*") == "GPL-3+"  # another folder called data
    assert license_of("game/data/music/forest.ogg", "data/music/*") == "data/music/*"  # the last
    assert license_of("game/music/forest.ogg", "*.ogg", "data/music/*") == "*.ogg"  # a whole pattern is better
    assert license_of("game/music/a[1].ogg", "music/a[1].ogg") == "music/a[1].ogg"
    assert license_of("game/music/forest.ogg", "?.ogg") == "CC-BY-SA-3.0"
    assert rights_of("usr/share/game/music/other.ogg", rights[1:], "music") is None


@pytest.mark.parametrize(
    "text", ["", "\n\n", "Files: *\nLicense: MIT\n", "It was debianized.\n\nFormat: none", "Format: x", "\x00\n\n:::"]
)
def test_a_copyright_for_people_says_nothing_to_machines(text: str) -> None:
    assert read_copyright(text) == []


@pytest.mark.parametrize(
    ("lines", "holders"),
    [
        (["2001-2016, Daniel Roux, EPSITEC SA & TerranovaTeam"], "Daniel Roux, EPSITEC SA & TerranovaTeam"),
        (["Copyright (C) 2009 - 2013 Ann <a@b.c>", "2010, Ann"], "Ann"),
        (["Will Savino (http://www.willsavino.net)", "Manuel (Vanethian)"], "Will Savino, Manuel (Vanethian)"),
        ([], ""),
    ],
)
def test_holders_are_named_without_years_and_addresses(lines: list[str], holders: str) -> None:
    text = "\n ".join(["Copyright:", *lines])
    assert read_copyright(f"Format: x\n\nFiles: a\n{text}\nLicense: MIT\n")[0].holders == holders
