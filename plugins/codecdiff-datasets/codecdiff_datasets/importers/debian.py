"""Debian packages: fetched by apt, unpacked without dpkg, and their machine-readable copyright files (DEP-5)."""

from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa

from codecdiff.data.metadata import unsafe_path
from codecdiff.errors import InvalidValue, UserError
from codecdiff.files import atomic_folder, require_file

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError, pa.ArrowInvalid)
FREE_BYTES, GROWTH = 2**28, 16  # music is hardly smaller when it is packed
ARCHIVES = (".zip", ".pk3")  # in which games keep their files
APT_OPTIONS = ("Acquire::Retries=1", "Acquire::http::Timeout=20", "Acquire::https::Timeout=20")
ELSEWHERE = "Or fetch .deb files from packages.debian.org, and name their folder."


class DownloadFailed(UserError, OSError):
    """A package that cannot be fetched: without apt, without a network..."""


class UnknownPackage(DownloadFailed):
    """A package that apt does not know."""


def download(package: str, folder: Path) -> Path:
    """Fetch a package by apt, which checks its signature, into a folder; a download that stopped is resumed.

    Raises DownloadFailed, and UnknownPackage for one that this release of Debian lacks.
    """
    if not (apt := shutil.which("apt-get")):
        raise DownloadFailed(f"'{package}' cannot be fetched: this machine has no apt-get. {ELSEWHERE}")
    folder.mkdir(parents=True, exist_ok=True)
    options = [word for option in APT_OPTIONS for word in ("-o", option)]
    command = [apt, "-q", *options, "download", package]
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
    )
    files = sorted(folder.glob(f"{package}_*.deb"))
    if result.returncode == 0 and files:
        return files[-1]
    lines = [line.removeprefix("E: ") for line in result.stderr.splitlines() if line.startswith("E: ")]
    reason = (lines or ["apt-get failed"])[0].rstrip(".")
    if "Unable to locate" in reason or "no candidate" in reason.lower():
        raise UnknownPackage(f"apt does not know '{package}': update its lists by apt-get update. {ELSEWHERE}")
    raise DownloadFailed(f"'{package}' cannot be fetched: {reason}. Check the network. {ELSEWHERE}")


def unpack(package: Path, folder: Path, accept: Callable[[str], bool]) -> None:
    """Write the files of a package that are accepted by their paths, and its copyright, into a new folder.

    The folder appears whole or not at all. Files of `.zip` and `.pk3` archives count as if they lay beside the archive.
    Links, and paths that lead out of the folder, are left out. Raises InvalidValue for a package that is damaged.
    """
    try:
        limit = FREE_BYTES + GROWTH * require_file(package).stat().st_size
        with atomic_folder(folder) as draft, _open_data(package) as data:
            for member in data:
                path = PurePosixPath(member.name).as_posix()
                if not member.isreg() or not (stream := data.extractfile(member)):
                    continue
                limit -= member.size if accept(path) or path.lower().endswith(ARCHIVES) else 0
                if limit < 0:
                    raise ValueError("it unpacks to far more than its size")
                if accept(path) or re.fullmatch(r"usr/share/doc/[^/]+/copyright", path):
                    _write(stream, path, draft)
                elif path.lower().endswith(ARCHIVES):
                    limit -= _unpack_archive(stream, path, draft, accept, limit)
    except DAMAGED as error:
        raise InvalidValue(f"'{package}' is not a whole Debian package: {error}. Fetch it again.") from error


@contextmanager
def _open_data(package: Path) -> Iterator[tarfile.TarFile]:
    """Open the files of a package: the member `data.tar.*` of an ar archive."""
    with package.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise ValueError("it does not begin as one")
        while len(header := stream.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
            if stream.tell() + size > package.stat().st_size:
                raise ValueError("it ends too early")
            if name.startswith("data.tar"):
                is_zstd = name.endswith(".zst")
                source = pa.CompressedInputStream(pa.PythonFile(stream), "zstd") if is_zstd else stream
                with tarfile.open(fileobj=source, mode="r|" if is_zstd else "r|*") as data:  # pyright: ignore
                    yield data
                return
            stream.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("it holds no files")


def _unpack_archive(stream: IO[bytes], path: str, draft: Path, accept: Callable[[str], bool], limit: int) -> int:
    """Write the files of an archive that are accepted, no more bytes than the limit, and return how many they are."""
    _write(stream, path, draft)
    total = 0
    with zipfile.ZipFile(draft / path) as archive:
        for name in archive.namelist():
            inside = (PurePosixPath(path).parent / name).as_posix()
            if not name.endswith("/") and accept(inside):
                total += archive.getinfo(name).file_size
                if total > limit:
                    raise ValueError("it unpacks to far more than its size")
                with archive.open(name) as content:
                    _write(content, inside, draft)
    (draft / path).unlink()
    return total


def _write(stream: IO[bytes], path: str, folder: Path) -> None:
    if unsafe_path(path):
        return
    file = folder / path
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        target = file.open("wb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(f"'{path}' is in a file, or a folder, of another of its files") from error
    with target:
        shutil.copyfileobj(stream, target, io.DEFAULT_BUFFER_SIZE * 16)


# Copyright


@dataclass(frozen=True)
class FileRights:
    """What a copyright file says of some files: patterns of their paths in the source, license and holders."""

    patterns: Sequence[str]
    license: str  # its short name
    copyright: Sequence[str]  # lines

    @property
    def is_specific(self) -> bool:
        """Whether it is about some files, rather than all that no other paragraph names."""
        return not {"*", "./*"} & set(self.patterns)

    @property
    def holders(self) -> str:
        """The names in the copyright, without years and addresses, each once."""
        names = []
        for line in self.copyright:
            text = re.sub(r"<[^>]*>|\([^)]*[@/.][^)]*\)|\(c\)|©|copyright:?|no-copyright", " ", line, flags=re.I)
            text = re.sub(r"\b(19|20)\d\d(\s*[-–,]\s*(19|20)\d\d)*\b,?", " ", text)
            names.append(" ".join(text.split()).strip(" -,;"))
        return ", ".join(dict.fromkeys(filter(None, names)))


def read_copyright(text: str) -> list[FileRights]:
    """Read a copyright file in the machine-readable format of Debian; [] for one that is written for people alone.

    https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    paragraphs = [_fields(paragraph) for paragraph in re.split(r"\n[ \t]*\n", text.strip().replace("\r\n", "\n"))]
    if "format" not in paragraphs[0]:
        return []
    return [
        FileRights(
            fields["files"].split(),
            fields.get("license", "").partition("\n")[0].strip(),
            [line.strip() for line in fields.get("copyright", "").splitlines()],
        )
        for fields in paragraphs
        if "files" in fields
    ]


def _fields(paragraph: str) -> dict[str, str]:
    fields = re.findall(r"^([A-Za-z][\w-]*):((?:.*)(?:\n[ \t].*)*)", paragraph, re.M)
    return {name.lower(): value.strip() for name, value in fields}


def rights_of(path: str, rights: Sequence[FileRights], folder: str) -> FileRights | None:
    """Return what is said of an installed file: of the paragraphs that match it best the last, as the format defines.

    Patterns are of paths in the source. When it is installed, other folders may surround these, and replace the first
    ones: `data/music/*` may be usr/share/games/supertux2/music/a.ogg. So a pattern also matches without its first
    folders, as long as one is left whose name contains `folder`, or if nothing but the name of a file is left.
    """
    parts = PurePosixPath(path).parts
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    scores = [max((_score(tails, pattern, folder) for pattern in each.patterns), default=0) for each in rights]
    best = max(scores, default=0)
    return next(
        (each for each, score in zip(reversed(rights), reversed(scores), strict=True) if score == best > 0), None
    )


def _score(tails: Sequence[str], pattern: str, folder: str) -> int:
    """Return how much of a pattern matches one of these paths: 0 nothing, 1 as any file would, 10,000 all of it."""
    names = PurePosixPath(pattern.replace("[", "[[]")).parts
    if names == ("*",):
        return 1
    for start in range(len(names)):
        remainder = names[start:]
        is_left = any(folder in name.lower() for name in remainder[:-1])
        is_name = len(remainder) == 1 and not set("*?") & set(remainder[0])
        if (not start or is_left or is_name) and any(fnmatchcase(tail, "/".join(remainder)) for tail in tails):
            return 10_000 if not start else 1 + len(remainder)
    return 0
