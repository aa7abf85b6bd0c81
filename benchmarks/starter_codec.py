"""How good the starter codec is, and what it costs: run `python benchmarks/starter_codec.py [folder of music]`.

Fits on composed pieces and prints, for held-out composed pieces and for the folder's files, what each level
leaves of the features' variance, the log-mel distance of decoded to original audio (dB) and the correlation of
their chroma, by number of levels kept; then seconds to fit, size of the state and speeds (times real time).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from codecdiff_eval.audio_features import log_mel
from codecdiff_starter.codec import SpectralCodec
from codecdiff_starter.composer import compose
from codecdiff_starter.facts import Facts, held_out_facts, training_facts
from codecdiff_starter.phases import retrieve_phases
from torch import Tensor

from codecdiff.data.audio import read_audio
from codecdiff.data.metadata import find_tracks

RATE = SpectralCodec.sample_rate
CHROMA_WINDOW = 8192  # audio samples
DECIBELS = 10 / np.log(10)  # per unit of natural log power


def composed(facts: list[Facts], seed: int, seconds: float) -> list[Tensor]:
    """Compose a piece of each of the facts: (1, t) audio."""
    return [torch.from_numpy(compose(each, seed + i, seconds))[None] for i, each in enumerate(facts)]


def recorded(folder: Path, seconds: float) -> list[Tensor]:
    """Cut a clip (1, t) out of the middle of every minute of the files in a folder."""
    tracks = [read_audio(track.file, RATE, 1) for track in find_tracks(folder)]
    minutes = [minute for track in tracks for minute in track.split(60 * RATE, dim=-1)]
    starts = [max(0, (minute.shape[-1] - round(seconds * RATE)) // 2) for minute in minutes]
    clips = [m[:, start : start + round(seconds * RATE)] for m, start in zip(minutes, starts, strict=True)]
    return [clip for clip in clips if clip.shape[-1] > RATE]


def left_by_level(codec: SpectralCodec, clips: list[Tensor]) -> Tensor:
    """Give the share of the features' variance that is left after each level, (k,)."""
    energies = torch.zeros(codec.num_codebooks + 1)
    for clip in clips:
        left = codec.features(clip[None])[0] - codec.mean
        entries = codec.embed(codec.encode(clip[None]))[0].transpose(1, 2)
        steps = torch.cat([left[None], -entries @ codec.projections]).cumsum(0)
        energies += steps.square().sum((1, 2))
    return energies[1:] / energies[0]


def chroma(audio: Tensor) -> Tensor:
    """(1, t) audio -> (frames, 12) amplitude of every pitch class between 80 and 4000 Hz, its mean subtracted."""
    window = torch.hann_window(CHROMA_WINDOW)
    powers = torch.stft(audio, CHROMA_WINDOW, window=window, return_complex=True)[0].abs().square()
    hertz = torch.linspace(0, RATE / 2, CHROMA_WINDOW // 2 + 1)
    heard = (hertz > 80) & (hertz < 4000)
    classes = (12 * (hertz[heard] / 440).log2()).round().long() % 12
    sums = torch.zeros(12, powers.shape[1]).index_add_(0, classes, powers[heard]).sqrt().T
    return sums - sums.mean(1, keepdim=True)


def compare(codec: SpectralCodec, clip: Tensor, levels: int) -> tuple[float, float]:
    """Log-mel distance (dB) and chroma correlation of a clip (1, t) and the sound of its first `levels` levels."""
    latents = codec.embed(codec.encode(clip[None]))
    latents[:, levels:] = 0
    audio = retrieve_phases(codec.magnitudes(latents), codec.griffin_lim_iterations)[:, : clip.shape[1]]
    distance = (log_mel(audio, RATE) - log_mel(clip, RATE)).abs().mean() * DECIBELS
    return distance.item(), torch.cosine_similarity(chroma(audio), chroma(clip), dim=1).mean().item()


def report(name: str, codec: SpectralCodec, clips: list[Tensor]) -> None:
    """Print the rows of one kind of music."""
    shares = " ".join(f"{share:.3f}" for share in left_by_level(codec, clips).tolist())
    print(f"{name} ({len(clips)} clips): variance left after each level {shares}")
    for levels in (1, 3, codec.num_codebooks):
        distance, correlation = np.mean([compare(codec, clip, levels) for clip in clips], axis=0)
        print(f"  {levels} levels: log-mel distance {distance:.2f} dB, chroma correlation {correlation:.3f}")


def speed(function: Callable[[Tensor], Tensor], argument: Tensor, seconds: float) -> float:
    """Give how many times faster than real time a call is, by the processor's time."""
    function(argument)
    start = time.process_time()
    function(argument)
    return seconds / (time.process_time() - start)


def main() -> None:
    """Fit, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="music to test on as well")
    parser.add_argument("--pieces", type=int, default=150, help="composed pieces to fit to")
    parser.add_argument("--seconds", type=float, default=12.0, help="of every piece")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pieces = composed([training_facts(rng) for _ in range(args.pieces)], 0, args.seconds)
    codec = SpectralCodec()
    start = time.process_time()
    codec.fit(pieces)
    print(
        f"fit: {time.process_time() - start:.0f} CPU seconds on {args.pieces * args.seconds / 60:.0f} minutes of music"
    )
    print(f"state: {sum(tensor.nbytes for tensor in codec.fitted_state().values()) / 1e6:.2f} MB")
    held_out = composed(held_out_facts(12, seed=1), 10_000, 5.0)
    report("composed, held out", codec, held_out)
    if args.folder:
        report("recorded", codec, recorded(args.folder, 5.0))
    clip = held_out[0][None]
    print(f"encode: {speed(codec.encode, clip, 5):.0f} x real time on one core")
    print(f"decode: {speed(codec.decode, codec.encode(clip), 5):.0f} x real time on one core")


if __name__ == "__main__":
    main()
