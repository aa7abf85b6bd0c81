"""JSON files that hold bytes and SHA-256 of the files beside them and of themselves, so that damage is noticed.

The last line of such a file is its own SHA-256, computed with zeros in its place. Files of version 0.1 have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codecdiff.files import BadDocument, DamagedFile, atomic_write_text, parse_json, read_bytes, sha256

__all__ = ["FILES", "SEAL", "read_sealed", "seal", "sealed_text", "verify_file", "write_sealed"]

FILES, SEAL = "files", "sha256"  # keys: hashes of other files by name, and the file's own
BLANK = "0" * 64


def seal(folder: Path, hashes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return bytes and SHA-256 of files in a folder whose SHA-256 is known."""
    return {name: {"bytes": (folder / name).stat().st_size, SEAL: digest} for name, digest in hashes.items()}


def sealed_text(spec: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return the text of a JSON file with these contents, what `seal` says of other files, and its own SHA-256."""
    text = json.dumps({**spec, FILES: dict(files or {}), SEAL: BLANK}, indent=2) + "\n"
    start, _, end = text.rpartition(BLANK)
    return start + hashlib.sha256(text.encode()).hexdigest() + end


def write_sealed(file: Path, spec: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write `sealed_text` to a file, whole or not at all."""
    atomic_write_text(file, sealed_text(spec, files))


def read_sealed(file: Path, digests: dict[str, str] | None = None, name: str = "") -> Any:
    """Read a JSON file, and put its SHA-256 into `digests` under a name.

    Raises DamagedFile if it is not what was written, and BadDocument if it is not JSON.
    """
    contents = read_bytes(file)
    try:
        spec = parse_json(contents, str(file))
    except BadDocument as error:
        raise BadDocument(f"{error} Correct it there, or copy the file again from where it came from.") from error
    if isinstance(spec, dict) and (FILES in spec or SEAL in spec):
        start, own, end = contents.rpartition(str(spec.get(SEAL) or None).encode())
        files = spec.get(FILES)
        is_table = isinstance(files, dict) and all(isinstance(each, dict) for each in files.values())
        if not is_table or hashlib.sha256(start + BLANK.encode() + end).hexdigest().encode() != own:
            raise DamagedFile(
                f"'{file}' is damaged: it is not what was written. Copy it again from where it came from. If you "
                f'edited it, delete its entries "{FILES}" and "{SEAL}".'
            )
    if digests is not None:
        digests[name] = hashlib.sha256(contents).hexdigest()
    return spec


def verify_file(file: Path, files: Mapping[str, Mapping[str, Any]], source: Path | str = "") -> str:
    """Return the SHA-256 of a file. Raises DamagedFile unless it is the one in `files`, if that names the file.

    `source` is the file that `files` comes from, for the message: that may be the one that is not the right one.
    """
    if not file.is_file():
        raise DamagedFile(f"'{file}' is missing. Copy the folder again from where it came from.")
    entry, digest, size = files.get(file.name), sha256(file), file.stat().st_size
    if entry is not None and digest != entry.get(SEAL):
        written, key = entry.get("bytes"), f"'{source}' records" if source else "what was written had"
        own, other = (f"SHA-256 {digest[:12]}...", f"{str(entry.get(SEAL))[:12]}...")
        if isinstance(written, int) and written != size:
            own, other = f"{size:,} bytes", f"{written:,}"
        raise DamagedFile(f"'{file}' is damaged: it has {own}; {key} {other}. Copy it again from where it came from.")
    return digest
