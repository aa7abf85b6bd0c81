"""What encoding costs here: `python benchmarks/encoding.py [--codec dac|starter] [--device cuda] [--seconds 29]`.

Encodes segments of noise in batches on the device, in float32 and, where it is a GPU, in bfloat16, and reads audio on
one core: decoding and resampling are measured apart, as they go on beside a GPU. `dac` has the shape of the released
44.1 kHz codec and random weights, which cost the same. Prints x real time, how many codes bfloat16 leaves as they are
in float32, peak memory, and what so many hours take on paper. Needs codecdiff and codecdiff_dac (or codecdiff_starter)
to be importable, no network and no weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from codecdiff import Codec
from codecdiff.codecs import chunked
from codecdiff.data.audio import stream_audio, write_audio
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.encoding.job import EncodeConfig
from codecdiff.data.metadata import find_tracks
from codecdiff.data.segments import SegmentConfig
from codecdiff.testing.tiny import write_tiny

PAPER = 12_000  # hours: MTG-Jamendo (3,778 h) and FMA (8,232 h)
console = Console(width=120)


def hours_to_encode(hours: float, speed: float, devices: int = 1, *, read_speed: float = 0.0, cores: int = 1) -> float:
    """Estimate the hours that encoding takes.

    Args:
        hours: Hours of audio.
        speed: Speed of one device (x real time).
        devices: Number of devices.
        read_speed: Speed of decoding and resampling on one core (x real time), which runs in parallel; the slower of
            the two decides. 0 ignores it.
        cores: Number of cores that read.

    """
    return max(hours / (speed * devices), hours / (read_speed * cores) if read_speed else 0.0)


def random_dac(folder: Path) -> Codec:
    """A DAC of the full 44.1 kHz shape."""
    from codecdiff_dac import DAC

    return DAC(str(write_tiny("dac", folder, size="44khz")))


def fitted_starter(folder: Path) -> Codec:
    """The starter codec, fitted to a little noise."""
    from codecdiff_starter.codec import SpectralCodec

    codec = SpectralCodec()
    codec.fit([noise(codec, 12.0, i) for i in range(8)])
    return codec


def noise(codec: Codec, seconds: float, seed: int) -> Tensor:
    """(ch, t) noise of no color at about -20 dBFS."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(codec.channels, round(seconds * codec.sample_rate), generator=generator)


def timed(function: Callable[[], Tensor], device: torch.device, least: float) -> tuple[float, Tensor]:
    """Seconds that a call takes, on average over as many as take `least` seconds together, and what it gives.

    They are the clock's on a GPU and the processor's on a CPU.
    """
    result = function()  # warms up

    def wait() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    begin, count = wait(), 0
    while not count or wait() - begin < least:
        result, count = function(), count + 1
    return (wait() - begin) / count, result


@torch.no_grad()
def encode_speed(codec: Codec, device: torch.device, seconds: float, batch: int, least: float) -> tuple[float, Tensor]:
    """X real time of encoding a batch of segments, as `codecdiff encode` does it, and the codes (b, k, l)."""
    audio = torch.stack([noise(codec, seconds, i) for i in range(batch)])
    pieces = chunked(codec)
    taken, codes = timed(lambda: pieces.encode(audio.to(device)).cpu(), device, least)
    return batch * seconds / taken, codes


def read_speed(file: Path, rate: int, channels: int, seconds: float) -> float:
    """X real time of decoding a file and resampling it, by the processor's time on one core."""
    list(stream_audio(file, rate, channels))
    begin = time.process_time()
    list(stream_audio(file, rate, channels))
    return seconds / (time.process_time() - begin)


def read_speeds(codec: Codec, folder: Path, seconds: float = 120.0) -> dict[str, float]:
    """X real time per core of reading stereo files of some formats and sample rates."""
    speeds = {}
    for suffix, rate in (("flac", 44_100), ("ogg", 44_100), ("mp3", 44_100), ("mp3", 48_000)):
        times = np.arange(round(seconds * rate)) / rate
        hiss = np.random.default_rng(0).normal(0, 0.05, (len(times), 2))
        file = folder / f"{rate}.{suffix}"
        with soundfile.SoundFile(file, "w", rate, 2) as stream:
            for block in np.split(0.3 * np.sin(2 * np.pi * 440 * times)[:, None] + hiss, int(seconds)):
                stream.write(block)
        name = f"{suffix}, {rate} Hz" + (f" to {codec.sample_rate}" if rate != codec.sample_rate else "")
        speeds[name] = read_speed(file, codec.sample_rate, codec.channels, seconds)
    return speeds


def store_speed(codec: Codec, folder: Path, seconds: float, count: int = 24) -> float:
    """X real time, by the clock, of `codecdiff encode` in one process on a folder of FLAC files of two minutes."""
    (folder / "music").mkdir()
    for i in range(count):
        audio = noise(codec, 120.0, i).repeat(2 // codec.channels, 1)
        write_audio(folder / "music" / f"{i}.flac", audio, codec.sample_rate)
    speeds: list[float] = []
    config = EncodeConfig(segments=SegmentConfig(segment=seconds))
    tracks = find_tracks(folder / "music")
    encode_tracks(tracks, folder / "store", codec, {}, config, progress=lambda progress: speeds.append(progress.speed))
    return speeds[-1]


def device_rows(table: Table, codec: Codec, device: torch.device, args: argparse.Namespace) -> float:
    """Add a row for every precision and batch; give the best x real time in float32."""
    best, wanted = 0.0, torch.empty(0)
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        codec = codec.to(device, dtype)
        for batch in args.batch:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            try:
                speed, codes = encode_speed(codec, device, args.seconds, batch, args.least)
            except RuntimeError as error:
                table.add_row(f"encode, {dtype}, batch {batch}", f"failed: {str(error).splitlines()[0]}", "", "")
                continue
            wanted = codes[:1] if not len(wanted) else wanted
            memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
            agree = f"{(codes[:1] == wanted).float().mean():.1%} of the codes as in float32"
            table.add_row(f"encode, {str(dtype).removeprefix('torch.')}, batch {batch}", f"{speed:.0f}", memory, agree)
            best = max(best, speed) if dtype == torch.float32 else best
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", choices=["dac", "starter"], default="dac")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=29.0, help="of a segment")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16], help="segments at once")
    parser.add_argument("--least", type=float, default=5.0, help="seconds that each measurement takes")
    parser.add_argument("--hours", type=float, default=PAPER, help="of audio, for the estimate")
    parser.add_argument("--cores", type=int, default=8, help="beside each GPU, for the estimate")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one core"
    table = Table("what", "x real time", "peak memory", "", title=f"{args.codec} on {name}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        codec = (random_dac if args.codec == "dac" else fitted_starter)(Path(folder))
        reading = read_speeds(codec, Path(folder))
        speed = device_rows(table, codec, device, args)
        if device.type != "cpu":
            codec = codec.to(device, torch.float32)
            table.add_row("read and encode a folder", f"{store_speed(codec, Path(folder), args.seconds):.0f}", "", "")
    for what, value in reading.items():
        table.add_row(f"read, {what}", f"{value:.0f}", "", "per core")
    console.print(table)
    slowest = min(reading.values())
    if device.type == "cpu":  # which has to read as well
        speed, slowest = 1 / (1 / speed + 1 / slowest), 0.0
    paper = Table("devices", "hours", title=f"{args.hours:,.0f} h at {speed:.0f} x, on paper")
    for devices in (1, 8, 64):
        taken = hours_to_encode(args.hours, speed, devices, read_speed=slowest, cores=args.cores * devices)
        paper.add_row(str(devices), f"{taken:,.1f}")
    console.print(paper)


if __name__ == "__main__":
    main()
