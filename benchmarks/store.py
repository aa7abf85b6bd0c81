"""What reading a store takes: `python benchmarks/store.py [--rows 1500000] [--shards 8] [--crop 864] [--rounds 5]`.

A store of `--rows` segments, eight of each track, is written with made-up captions and metadata; its codes are zeros in
sparse files. Then, in one thread, seconds of the processor:

open        `CodeStore`, in a process of its own, with the memory that it takes
row by row  clips of random batches of 32: a generator, a dict of the row and an int64 copy for each sample, as
            codecdiff read them before its rows were columns (they were all dicts then)
now         the same batches by `TrainingCrops.batch`; "first" includes comparing blocks with their checksums, once each

Both ways alternate, and must yield the same batch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from codecdiff import rng
from codecdiff.data import CodeStore, TrainingCrops
from codecdiff.data.sealed import seal, write_sealed
from codecdiff.data.shards import ROWS, SHARD_FILES
from codecdiff.files import parse_json, sha256, write_parquet

BATCH, SEGMENTS, CODEBOOKS, FRAMES, RATE = 32, 8, 9, 2496, 86.1328125  # of the paper: 29 s
WORDS = ["a", "slow", "warm", "piano", "over", "soft", "strings", "and", "distant", "drums", "of", "late", "evenings"]
OPEN = """
import re, sys, time
from pathlib import Path
import pyarrow.parquet, torch
from codecdiff.data import CodeStore
CodeStore
memory = lambda key: int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before, began = memory("VmRSS"), time.process_time()
store = CodeStore(sys.argv[1])
print(time.process_time() - began, memory("VmHWM") - before, memory("VmRSS") - before)
"""


def write_store(folder: Path, num_rows: int, num_shards: int) -> None:
    """Write a store whose codes are zeros, which takes no space."""
    (folder / "shards").mkdir(parents=True)
    in_shard = -(-num_rows // num_shards)
    for shard in range(num_shards):
        shape = (in_shard * FRAMES, CODEBOOKS)
        np.lib.format.open_memmap(folder / f"shards/{shard:05d}.npy", "w+", np.uint16, shape)
    row = np.arange(num_rows)
    track, zeros = row // SEGMENTS, zlib.crc32(bytes(2 * CODEBOOKS * FRAMES))
    texts = [f"{' '.join(np.roll(WORDS, i))}, number {i}" for i in range(track[-1] + 1)]
    metadata = [
        json.dumps({"title": text[:20], "artist": f"artist {i}", "tempo": 120.0}) for i, text in enumerate(texts)
    ]
    columns = {
        "track": [f"collection/folder/{i:07d}.mp3" for i in track],
        "captions": [[texts[i], texts[i][::-1]] for i in track],
        "metadata": [metadata[i] for i in track],
        "license": ["CC-BY"] * num_rows,
        "source": ["benchmark"] * num_rows,
        "split": ["train"] * num_rows,
        "seconds": np.full(num_rows, FRAMES / RATE),
        "checksum": [f"{i:064x}" for i in track],
        "bytes": np.full(num_rows, 5_000_000),
        "segment": (row % SEGMENTS).astype(np.int32),
        "offset": row % SEGMENTS * 29.0,
        "shard": (row // in_shard).astype(np.int32),
        "start": row % in_shard * FRAMES,
        "frames": np.full(num_rows, FRAMES),
        "crc32": [[zeros]] * num_rows,
        "continuous_crc32": [None] * num_rows,
    }
    write_parquet(folder / "manifest.parquet", pa.table(columns, schema=ROWS))
    write_parquet(folder / "shards.parquet", pa.table([[], [], []], schema=SHARD_FILES))
    header = {"format": 2, "codec": {}, "weights": "", "num_codebooks": CODEBOOKS, "frame_rate": RATE}
    header |= {"shards": num_shards, "continuous": False}
    hashes = {name: sha256(folder / name) for name in ("manifest.parquet", "shards.parquet")}
    write_sealed(folder / "header.json", header, seal(folder, hashes))


def row_by_row(crops: TrainingCrops, numbers: list[int]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Return codes and prompts of a batch, each sample by itself."""
    codes, prompts = [], []
    for number in numbers:
        row = crops.store.rows[i := int(crops._rows([number])[0])]
        random = rng.numpy_generator("codecdiff.data.crop", crops.subset, crops.seed, number)
        start = int(random.integers(0, max(1, row["frames"] - crops.frames + 1)))
        text = row["captions"][int(random.integers(len(row["captions"])))]
        frames = np.asarray(crops.store.codes(i, start, crops.frames), np.int64)
        codes.append(np.pad(frames, ((0, crops.frames - len(frames)), (0, 0))))
        fields = parse_json(row["metadata"], "", dict[str, Any])
        prompts.append({**fields, "text": text, "start": start / RATE, "seconds": row["seconds"]})
    return torch.from_numpy(np.stack(codes)).transpose(1, 2), prompts


def clips_per_second(read: Any, batches: list[list[int]]) -> float:
    """Read batches, and return clips per second of the processor."""
    began = time.process_time()
    for numbers in batches:
        read(numbers)
    return BATCH * len(batches) / (time.process_time() - began)


def main() -> None:
    """Write a store, open it, read it in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--crop", type=int, default=864, help="frames of a crop")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        write_store(folder, args.rows, args.shards)
        command = [sys.executable, "-c", OPEN, str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, peak, held = map(float, output.split())
        console.print(f"{args.rows:,} rows open in {seconds:.2f} CPU s, {peak:.0f} MB at most, {held:.0f} MB after")
        crops = TrainingCrops(CodeStore(folder), range(args.rows), args.crop)
        steps = [[crops.sample_indices(40 * r + s, BATCH) for s in range(40)] for r in range(args.rounds)]
        codes, prompts = row_by_row(crops, steps[0][0])
        batch = crops.batch(steps[0][0])
        if not torch.equal(batch.codes.long(), codes) or batch.prompts != prompts:
            raise SystemExit("Both ways must read the same.")
        rates = []
        for batches in steps:
            first = clips_per_second(crops.batch, batches)
            slow = clips_per_second(lambda numbers: row_by_row(crops, numbers), batches)
            rates.append((first, clips_per_second(crops.batch, batches), slow))
    first, now, before = zip(*rates, strict=True)
    ratios = sorted(a / b for a, b in zip(now, before, strict=True))
    table = Table("way", f"clips of {args.crop} frames per CPU second", "times row by row")
    table.add_row("row by row", f"{median(before):,.0f}", "1")
    table.add_row("now", f"{median(now):,.0f}", f"{median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    table.add_row("now, first", f"{median(first):,.0f}", "")
    console.print(table)


if __name__ == "__main__":
    main()
