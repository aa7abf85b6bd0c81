"""Debian packages of a few files, made as dpkg-deb makes them: an ar archive with a tar of the files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import soundfile
from small import RATE, tone


def deb(folder: Path, name: str, files: Mapping[str, bytes | Path], compression: str = "xz") -> Path:
    """Write a package of these files; a path as content is a symbolic link to it."""
    stream, mode = io.BytesIO(), cast(Any, "w" if compression == "zst" else f"w:{compression}")
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path if path.startswith("/") else f"./{path}")
            if isinstance(content, Path):
                member.type, member.linkname = tarfile.SYMTYPE, str(content)
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    data = stream.getvalue()
    if compression == "zst":
        data = pa.compress(data, "zstd", asbytes=True)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{compression}": data}
    blocks = [b"!<arch>\n"]
    for member, content in members.items():
        blocks += [f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode(), content]
        blocks += [b"\n"] * (len(content) % 2)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_1.0-1_all.deb"
    file.write_bytes(b"".join(blocks))
    return file


def ogg(seconds: float = 21.0, hertz: float = 220.0, **tags: str) -> bytes:
    """Return a tone as Ogg Vorbis, with tags."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", RATE, 1, format="OGG", subtype="VORBIS") as sound:
        for key, value in tags.items():
            setattr(sound, key, value)
        sound.write(np.asarray(tone(seconds, hertz)))
    return stream.getvalue()


COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Game

Files: *
Copyright: 2001-2016, The Game Team
License: GPL-3+

Files: debian/*
Copyright: 2013, A Packager <packager@debian.org>
License: GPL-3+

Files:
 ./data/music/forest.ogg
 data/music/sea*.ogg
Copyright:
 2012 Ann Other (http://ann.example)
 (c) 2013, 2014 Bo Third <bo@example.org>
License: CC-BY-SA-3.0
Comment: From the album.

Files: old/place/desert.ogg
Copyright: no-copyright
License: CC0-1.0
 On Debian systems, the complete text is in
 /usr/share/common-licenses/CC0-1.0.

License: GPL-3+
 Some text.
"""
