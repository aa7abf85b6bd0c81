"""What looking for near copies takes: `python benchmarks/audit.py MODEL STORE [--windows 1000000] [--clips 64]`.

The rows of a store are described again and again until there are so many windows. Then clips cut out of it at random
are looked for, whose place must be found. Seconds of the clock, and memory.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import psutil
from codecdiff_eval.audit import COARSE, WindowIndex

from codecdiff import Pipeline
from codecdiff.data import CodeStore


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("store")
    parser.add_argument("--windows", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=64)
    options = parser.parse_args()
    store, codec = CodeStore(options.store), Pipeline.from_pretrained(options.model).codec
    frames, lengths = 2 * round(1.5 * codec.frame_rate), store.rows.array("frames")
    usable = [i for i in range(len(store)) if lengths[i] >= 2 * frames]
    per_row = float(np.mean([(lengths[i] - frames) // (frames // 2) + 1 for i in usable]))
    rows = usable * round(options.windows / per_row / len(usable) + 1)
    began = time.perf_counter()
    index = WindowIndex.of(store, rows, codec, frames)
    described = time.perf_counter()
    random, found = np.random.default_rng(0), 0
    for _ in range(options.clips):
        row = usable[int(random.integers(len(usable)))]
        start = int(random.integers(lengths[row] - 2 * frames + 1))
        match = index.match(np.asarray(store.codes(row, start, 2 * frames)), 1000)
        found += match.levels[0] == 1
    ended, memory = time.perf_counter(), psutil.Process().memory_info().rss / 1e9
    print(f"{len(index.places):,} windows of {COARSE} codebooks: described in {described - began:.1f} s")
    print(f"{options.clips} clips looked for in {ended - described:.1f} s, {found} found; memory {memory:.2f} GB")


if __name__ == "__main__":
    main()
