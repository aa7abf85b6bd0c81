"""Damage valid inputs at random, and count what readers raise that is not a `UserError`.

    python tests/soak/fuzz.py --seconds 600 --state fuzz.json    # again: goes on where it stopped

Input n of a reader follows from the seed, the reader and n alone, so that any of them can be made again:

    python tests/soak/fuzz.py --only c.yaml --first 1234 --count 1
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from readers import Reader, readers

from codecdiff.errors import UserError
from codecdiff.files import atomic_write_text

SECONDS = 0.3  # of each reader, before the next
WORDS = [
    b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"99999999999999999999", b"1e11", b"true", b'""', b"[]",
    b"../../etc/passwd", b"/etc/passwd", b"~", b"C:\\", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"\r\n", b"\n",
    b'"', b"'", b",", b"\t", b":", b"&a ", b"*a", b"!!int x", b"<<: ", b"- ", b"[" * 200, b'{"a":' * 100, b"\x7f" * 9,
    b"RIFF", b"data", b"fmt ", b"OggS", b"fLaC", b"ID3", b"PAR1", b"\x93NUMPY", b"FORM", b"SSND", b"ds64", b"Xing",
    b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x" * 3000, "\0", "../x",
    "/x", "~", "\u202e", [], {}, [[]], {"": None}, [None] * 50, {"name": "dac"}, {"name": 1}, {"name": ["x"]}, "dac",
    {"name": "cached", "folder": "/x", "conditioner": {"name": "words"}}, {"text": {"text": {}}}, [1, "a", None],
]  # fmt: skip


def damaged(contents: bytes, random: random.Random) -> bytes:
    """Return contents with a few places changed."""
    data = bytearray(contents)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        place, length = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 8, 64, 512))
        match random.randrange(9):
            case 0 if data:
                data[place % len(data)] ^= 1 << random.randrange(8)
            case 1:
                data[place : place + length] = random.randbytes(length)
            case 2:
                data[place : place + length] = bytes(length)
            case 3:
                del data[place:]
            case 4:
                del data[place : place + length]
            case 5:
                data[place:place] = random.choice(WORDS)
            case 6:
                data[place : place + 4] = random.choice(WORDS)
            case 7:
                data += random.randbytes(length)
            case _:
                other = random.randrange(len(data) + 1)
                data[place : place + length] = data[other : other + length]
    return bytes(data)


def changed(value: Any, random: random.Random) -> Any:
    """Return a value of JSON with one place in it replaced, dropped or repeated."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        match random.randrange(8):
            case 0:
                return {name: each for name, each in value.items() if name != key}
            case 1:
                return {**value, random.choice(["", "x", "name", "file", "\0", "../x"]): random.choice(VALUES)}
            case _:
                return {**value, key: changed(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        i = random.randrange(len(value))
        return [*value[:i], changed(value[i], random), *value[i + 1 :]] * random.choice((1, 1, 1, 2))
    if isinstance(value, str) and random.random() < 0.3:
        return damaged(value.encode(), random).decode(errors="replace")
    return random.choice(VALUES)


def make_input(reader: Reader, seed: int, n: int) -> bytes:
    """Return input `n` of a reader."""
    source = random.Random(f"{seed} {reader.name} {len(reader.also)} {n}")
    if reader.name.endswith((".json", ".jsonl")) and source.random() < 0.7:
        lines = reader.contents.splitlines() if reader.name.endswith("l") else [reader.contents]
        values = [json.loads(line) for line in lines]
        for _ in range(source.choice((1, 1, 2, 4))):
            i = source.randrange(len(values))
            values[i] = changed(values[i], source)
        return "\n".join(map(json.dumps, values)).encode()
    return damaged(reader.contents, source)


def try_input(reader: Reader, folder: Path, contents: bytes) -> str:
    """Read a folder with these contents, and return a traceback if that raises what no reader may."""
    for name, other in {**reader.also, reader.name: contents}.items():
        file = folder / name
        if name == reader.name or not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(other)
    try:
        reader.read(folder)
    except UserError as error:
        return "" if str(error) else "An error without a message."
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> None:
    """Run until the time or the number of inputs is reached, and print what was found."""
    parser = argparse.ArgumentParser(description="Try damaged inputs on every reader.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--count", type=int, default=10**9, help="inputs of each reader")
    parser.add_argument("--total", type=int, default=10**12, help="inputs of all readers, in all runs of a state")
    parser.add_argument("--first", type=int, help="number of the first input; default: where the last run stopped")
    parser.add_argument("--only", default="", help="readers whose name contains this")
    parser.add_argument("--part", default="0/1", help="K/N: every N-th reader from the K-th on, for N processes")
    parser.add_argument("--state", type=Path, help="file that keeps how far every reader is")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    warnings.simplefilter("ignore")
    state = json.loads(options.state.read_text()) if options.state and options.state.exists() else {}
    end, found, kinds = time.monotonic() + options.seconds, Counter(), Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        everything = [r for r in readers(Path(temporary) / "valid") if options.only in r.name][part::parts]
        folders = {id(r): Path(temporary) / str(i) for i, r in enumerate(everything)}
        key = {id(r): f"{r.name} {len(r.also)}" for r in everything}
        first = {id(r): state.get(key[id(r)], 0) if options.first is None else options.first for r in everything}
        done: Counter[str] = Counter()
        while (
            time.monotonic() < end
            and sum(done.values()) + sum(first.values()) < options.total
            and any(done[key[id(r)]] < options.count for r in everything)
        ):
            for reader in everything:  # in turn, as long each
                name, until = key[id(reader)], time.monotonic() + SECONDS
                while done[name] < options.count and time.monotonic() < until:
                    number = first[id(reader)] + done[name]
                    problem = try_input(reader, folders[id(reader)], make_input(reader, options.seed, number))
                    done[name] += 1
                    if problem:
                        kind = (reader.name, re.sub(r"\d+", "N", problem.strip().splitlines()[-1])[:60])
                        kinds[kind] += 1
                        found[reader.name] += 1
                        if kinds[kind] == 1:
                            sys.stdout.write(f"\n{reader.name} input {number} (seed {options.seed}):\n{problem}\n")
                            sys.stdout.flush()
                shutil.rmtree(folders[id(reader)], ignore_errors=True)
            if options.state:
                now = {key[id(r)]: first[id(r)] + done[key[id(r)]] for r in everything}
                atomic_write_text(options.state, json.dumps({**state, **now}))
    total = sum(done.values())
    sys.stdout.write(f"{total:,} inputs of {len(everything)} readers, {sum(found.values())} undocumented exceptions\n")
    for (name, line), count in kinds.most_common():
        sys.stdout.write(f"{count:>7} {name}: {line}\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
