"""Clips of composed music."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.pipeline import Pipeline
from codecdiff.rng import numpy_generator
from codecdiff_starter.composer import SAMPLE_RATE, Facts, captions, compose, held_out_facts, training_facts

TRACK_SECONDS = 12.0  # as the composer's data sets; clips are cut out at random, as the crops of training are
DECODE_BATCH = 8  # clips; bounds the memory of decoding


class ComposedClips(NamedTuple):
    """Composed clips, their facts, and a caption each."""

    audio: Tensor  # (n, 1, t)
    facts: list[Facts]
    prompts: list[str]


def compose_clips(
    n: int, seconds: float, seed: int, *, unseen: bool, each: Callable[..., Iterable[Any]] = map
) -> ComposedClips:
    """Compose n tracks and cut a clip out of each; `unseen` makes every other one a combination training lacks.

    `each` maps `compose` over the tracks; that of `composer.mapping` works in several processes.
    """
    rngs = [numpy_generator("codecdiff_starter.demo.composed", seed, i) for i in range(n)]
    facts = [training_facts(rng) for rng in rngs]
    if unseen:
        facts[::2] = held_out_facts(len(facts[::2]), seed)
    seeds = [int(rng.integers(2**31)) for rng in rngs]
    wholes = each(compose, facts, seeds, [max(seconds, TRACK_SECONDS)] * n)
    clips = [cut(audio, seconds, rng) for audio, rng in zip(wholes, rngs, strict=True)]
    prompts = [captions(f, rng)[0] for f, rng in zip(facts, rngs, strict=True)]
    return ComposedClips(torch.from_numpy(np.stack(clips))[:, None], facts, prompts)


def training_clips(folder: Path, n: int, seconds: float, seed: int) -> Tensor:
    """Cut n random clips (n, 1, t) out of the composed music in a folder, from each track in turn."""
    files = sorted(folder.glob("*.flac"))
    if not files:
        raise MissingFile(
            f"{folder} holds no flac file: expected the folder of composed music the model was trained on."
        )
    rng = numpy_generator("codecdiff_starter.demo.training", seed)
    order = rng.permutation(len(files))
    tracks = (soundfile.read(files[order[i % len(files)]], dtype="float32", always_2d=True) for i in range(n))
    return torch.from_numpy(np.stack([cut(audio.mean(1), seconds, rng) for audio, _ in tracks]))[:, None]


def cut(audio: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Cut `seconds` out of a composed track (t,), at a random place."""
    samples = round(seconds * SAMPLE_RATE)
    if len(audio) < samples:
        raise InvalidValue(
            f"A track of {len(audio) / SAMPLE_RATE:.1f} s holds no clip of {seconds:g} s: choose shorter clips."
        )
    start = int(rng.integers(len(audio) - samples + 1))
    return audio[start : start + samples]


def decode(pipeline: Pipeline, codes: Tensor, samples: int) -> Tensor:
    """(n, k, l) codes -> (n, 1, samples) mono audio on the CPU."""
    batches = [pipeline.decode(batch.split(1), samples) for batch in codes.split(DECODE_BATCH)]
    return torch.cat([audio.mean(1, keepdim=True).cpu() for audio in batches])
