"""Music of free games, from Debian's packages: about 30 hours, under free licenses that are stated file by file.

A file is music if a folder it lies in is called so and if it lasts at least 20 seconds. Title, artist and genre are its
own tags. Its license is what the package's copyright file says of it in particular, or else its own tags, or else what
that file says of all others; what none of them says is unknown.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import soundfile

from codecdiff.data.audio import SUFFIXES
from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import Issue, Report
from codecdiff.errors import MissingFile, UnknownName
from codecdiff.files import missing_file
from codecdiff_datasets.captioners.tags import summarize_tags
from codecdiff_datasets.captioning import one_line
from codecdiff_datasets.importers.debian import FileRights, UnknownPackage, download, read_copyright, rights_of, unpack
from codecdiff_datasets.licenses import license_name

PACKAGES = {  # that may be fetched -> their game
    "0ad-data": "0 A.D.",
    "colobot-common-sounds": "Colobot",
    "flare-game": "Flare",
    "freedroidrpg-data": "FreedroidRPG",
    "hedgewars-data": "Hedgewars",
    "hyperrogue-music": "HyperRogue",
    "megaglest-data": "MegaGlest",
    "naev-data": "Naev",
    "openclonk-data": "OpenClonk",
    "singularity-music": "Endgame: Singularity",
    "supertux-data": "SuperTux",
    "supertuxkart-data": "SuperTuxKart",
    "ufoai-music": "UFO: Alien Invasion",
    "unknown-horizons": "Unknown Horizons",
    "warzone2100-music": "Warzone 2100",
    "wesnoth-1.16-music": "The Battle for Wesnoth",
    "widelands-data": "Widelands",
}
MIN_SECONDS = 20.0  # of music; shorter files are sounds and jingles
MEANINGLESS = {"", "(none)", "none", "<unknown>", "unknown", "other", "unspecified"}  # tags that say nothing


def extraction_folder(sources: Sequence[str], audio: Path | None) -> Path:
    """Return the folder of the audio: that of packages which are extracted already, or else where they are unpacked."""
    return Path(sources[0]) if _is_extracted(sources) else audio or Path("game-music")


def read(
    sources: Sequence[str], audio: Path, report: Report, progress: Callable[[str], None] = lambda text: None
) -> list[ManifestRow]:
    """Read packages: by name, fetched by apt; `.deb` files or a folder of them; or a folder of extracted ones.

    Without a source, all PACKAGES are fetched. Those that are not extracted yet are unpacked into the folder `audio`,
    each into one of its own, and not again if that is there. `progress` is called with what is being done. Raises
    UnknownName for another name, MissingFile for files that do not exist, and DownloadFailed.
    """
    if _is_extracted(sources):
        roots = [audio] if (audio / "usr").is_dir() else sorted(path.parent for path in audio.glob("[!.]*/usr"))
    else:
        packages = list(_packages(sources))
        roots = [root for package in packages if (root := _provide(package, audio, report, progress))]
    if not roots:
        raise MissingFile(
            f"No package in {', '.join(sources) or 'the list'}. Name a folder of .deb files, one of extracted "
            f"packages (which have a folder usr), or packages: {', '.join(PACKAGES)}."
        )
    rows: list[ManifestRow] = []
    for root in roots:
        progress(f"reading {root.name}")
        rows += _read_package(root, audio, report)
    return rows


def _is_extracted(sources: Sequence[str]) -> bool:
    return len(sources) == 1 and (folder := Path(sources[0])).is_dir() and not any(folder.glob("*.deb"))


def _packages(sources: Sequence[str]) -> Iterator[str | Path]:
    """Yield the names of packages to fetch, and their files."""
    for source in sources or PACKAGES:
        path = Path(source)
        if path.is_dir():
            yield from sorted(path.glob("*.deb"))
        elif path.suffix == ".deb":
            if not path.is_file():
                raise missing_file(path)
            yield path
        elif source in PACKAGES:
            yield source
        else:
            raise UnknownName(f"'{source}' is neither a .deb file, a folder, nor one of {', '.join(PACKAGES)}.")


def _provide(package: str | Path, audio: Path, report: Report, progress: Callable[[str], None]) -> Path | None:
    """Fetch and unpack a package unless that was done before, and return its folder; None for one that apt lacks."""
    name = package.name.partition("_")[0] if isinstance(package, Path) else package
    root, downloads = audio / name, audio / f".{name}.download"
    if root.is_dir():
        return root
    try:
        if isinstance(package, str):
            progress(f"fetching {name}")
            package = download(name, downloads)
        progress(f"unpacking {name}")
        unpack(package, root, is_music)
    except UnknownPackage as error:
        report(Issue(name, str(error), "Leave it out."))
    shutil.rmtree(downloads, ignore_errors=True)  # after other errors it stays, to be resumed
    return root if root.is_dir() else None


def is_music(path: str) -> bool:
    """Return whether a file is music by its path: audio in a folder that is called so."""
    folders = PurePosixPath(path.lower()).parts[:-1]
    return path.lower().endswith(SUFFIXES) and any("music" in folder for folder in folders)


def _read_package(root: Path, audio: Path, report: Report) -> list[ManifestRow]:
    """Return a row for every track of an extracted package."""
    notices = sorted(root.glob("usr/share/doc/*/copyright"))
    package = notices[0].parent.name if len(notices) == 1 else root.name
    rights = read_copyright(notices[0].read_text(encoding="utf-8", errors="replace")) if len(notices) == 1 else []
    if not rights:
        what = "Its copyright file cannot be read by a machine: licenses are those that the files name themselves."
        report(Issue(package, what, f"Read {notices[0] if notices else 'the one that it is built from'}."))
    paths = [path for file in sorted(root.rglob("*")) if is_music(path := file.relative_to(root).as_posix())]
    rows = [_row(package, root, path, audio, rights) for path in paths if (root / path).is_file()]
    music = [row for row in rows if row.seconds is None or row.seconds >= MIN_SECONDS]
    if short := len(rows) - len(music):
        what = f"{short} files last less than {MIN_SECONDS:g} s, and are left out."
        report(Issue(package, what, "They are sounds and jingles."))
    titles = Counter(row.title for row in music)
    return [replace(row, title=_name(row.file)) if titles[row.title] > 1 else row for row in music]


def _name(path: str) -> str:
    """Return a title for a file without one, or whose title is that of others."""
    return PurePosixPath(path).stem.strip("@").replace("_", " ")


def _row(package: str, root: Path, path: str, audio: Path, notice: Sequence[FileRights]) -> ManifestRow:
    """Return what is known of a track: by its own tags, and by the copyright file of its package."""
    stated, seconds = rights_of(path, notice, "music"), None
    tags: Mapping[str, str] = {}
    with suppress(soundfile.LibsndfileError, OSError, TypeError), soundfile.SoundFile(root / path) as stream:
        tags, seconds = stream.copy_metadata(), stream.frames / stream.samplerate
    tags = {key: text for key, value in tags.items() if (text := one_line(value)).lower() not in MEANINGLESS}
    genre = {"genre": [tags["genre"]]} if "genre" in tags else {}
    rights = stated if stated and (stated.is_specific or "license" not in tags) else None
    published = rights.license if rights else tags.get("license", "")
    more = {key: tags[key] for key in ("album", "date", "comment", "copyright") if key in tags}
    more |= {"copyright": "; ".join(stated.copyright)} if stated else {}
    more |= {"license_text": published} if published else {}
    name = (root / path).relative_to(audio).as_posix()
    return ManifestRow(
        name,
        file=name,
        seconds=seconds,
        tags=genre,
        captions=[summarize_tags(genre)] if genre else [],
        license=license_name(published, published),
        artist=tags.get("artist", "") or (stated.holders if stated and stated.is_specific else ""),
        title=tags.get("title", "") or _name(path),
        source=f"https://packages.debian.org/{package}",
        metadata={"package": package, "game": PACKAGES.get(package, ""), **more},
    )
