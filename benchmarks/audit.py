"""What looking for near copies takes: `python benchmarks/audit.py MODEL STORE [--windows 1000000] [--clips 64]`.

The rows of a store are described again and again until there are so many windows. Then clips cut out of it at random
are looked for, whose place must be found. Seconds of the processor, and memory.
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
    began = time.process_time()
    index = WindowIndex.of(store, rows, codec, frames)
    described = time.process_time()
    random = np.random.default_rng(0)
    clips = [usable[i] for i in random.integers(len(usable), size=options.clips)]
    starts = random.integers(lengths[clips] - 2 * frames + 1)
    matches = index.matches(store.crops(clips, starts, 2 * frames), 1000)
    found = sum(match.levels[0] == 1 for match in matches)
    ended, memory = time.process_time(), psutil.Process().memory_info().rss / 1e9
    print(f"{len(index.places):,} windows of {COARSE} codebooks: described in {described - began:.1f} CPU s")
    print(f"{options.clips} clips looked for in {ended - described:.1f} CPU s, {found} found; memory {memory:.2f} GB")


if __name__ == "__main__":
    main()
