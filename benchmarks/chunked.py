"""What long recordings take here: `python benchmarks/chunked.py [--minutes 1 2 5 10] [--width 8] [--whole]`.

Encodes and decodes noise of a few minutes by `ChunkedCodec`, and with `--whole` in one piece too, each a process
of its own, and prints the peak of its resident memory, and the seconds it took. The codec is a DAC of the 44.1 kHz
shape with random weights; `--width` makes it narrower than the released 64 channels, for less time and memory alike.
The audio and what is decoded of it lie in memory, 10.6 MB a minute each, and so do the codes. Needs codecdiff and
codecdiff_dac, no network and no weights.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

MB = 1e6


def peak() -> float:
    """Megabytes: the most that this process has had resident so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def measure(model: Path, minutes: float, frames: int) -> None:
    """Print the peaks before and after, and the seconds; `frames` of a piece, 0 for no pieces."""
    from codecdiff_dac import DAC

    from codecdiff.codecs import ChunkedCodec

    torch.set_num_threads(1)
    dac = DAC(str(model))
    codec = ChunkedCodec(dac, frames=frames) if frames else dac
    codec.decode(codec.encode(torch.zeros(1, 1, dac.hop_length)))  # what is loaded at the first use
    before, begin = peak(), time.monotonic()
    audio = torch.empty(1, 1, round(60 * minutes * dac.sample_rate))
    audio.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    heard = codec.decode(codec.encode(audio))
    print(before, peak(), time.monotonic() - begin, heard.numel() * 4 / MB)


def main() -> None:
    """Measure each length in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--width", type=int, help="channels at the audio's end; the released model has 64")
    parser.add_argument("--frames", type=int, default=512, help="of a piece")
    parser.add_argument("--whole", action="store_true", help="measure it in one piece as well")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "MINUTES", "FRAMES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(Path(args.one[0]), float(args.one[1]), int(args.one[2]))
        return

    from codecdiff.testing.tiny import write_tiny

    table = Table("minutes", "in pieces of", "peak, MB", "over the start", "less audio in and out", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        narrow = {"encoder_hidden_size": args.width, "decoder_hidden_size": 24 * args.width} if args.width else {}
        model = write_tiny("dac", folder, size="44khz", **narrow)
        for frames in [args.frames, *([0] if args.whole else [])]:
            for minutes in args.minutes:
                command = [sys.executable, __file__, "--one", str(model), str(minutes), str(frames)]
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                pieces = f"{frames} frames" if frames else "the whole"
                if run.returncode:
                    table.add_row(f"{minutes:g}", pieces, f"failed, status {run.returncode}", "", "", "")
                    continue
                before, after, seconds, audio = map(float, run.stdout.split())
                grown = after - before
                table.add_row(
                    f"{minutes:g}",
                    pieces,
                    f"{after:,.0f}",
                    f"{grown:,.0f}",
                    f"{grown - 2 * audio:,.0f}",
                    f"{seconds:.0f}",
                )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
