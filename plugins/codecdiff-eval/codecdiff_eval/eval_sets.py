"""The sets of clips that every evaluation consists of: what a model generates, and what that is compared with.

generated                everything generated from captions: the full cascade
codec reconstruction     real music that the codec encoded and decoded: the upper bound of what its codes can do
oracle first stage       the first stage taken from real music, the later ones generated
oracle first N stages    as many stages taken from real music
reference                real music that all are compared with
sources                  clips of the reference that the codec reconstruction and the oracles are made of
noise                    latents of unit variance, quantized: what knowing nothing sounds like
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from codecdiff import rng
from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Prompt, Splitter
from codecdiff.pipeline import EditMask, Pipeline
from codecdiff_eval.results import CODEC_RECONSTRUCTION, ORACLE, NotMeasured

__all__ = [
    "CODEC_RECONSTRUCTION",
    "GENERATED",
    "NOISE",
    "REFERENCE",
    "SOURCES",
    "EvalSets",
    "edit_mask_of",
    "encode_clips",
    "first_stages_mask",
    "generate_sets",
    "noise_codes",
    "oracle",
]

GENERATED, REFERENCE, SOURCES, NOISE = "generated", "reference", "sources", "noise"

T = TypeVar("T")
U = TypeVar("U")


def oracle(num_stages: int = 1) -> str:
    """Return the name of the set whose first stages are those of real music."""
    return ORACLE if num_stages == 1 else f"oracle first {num_stages} stages"


class EvalSets(dict[str, "T | NotMeasured"], Generic[T]):
    """Sets of clips by name, as tracks, codes, audio or embeddings; or why there is none of a name."""

    def get_set(self, name: str) -> T:
        """Return a set. Raises ValueError with the reason if there is none."""
        result = self[name]
        if isinstance(result, NotMeasured):
            raise InvalidValue(f"Set '{name}' is not available: {result.reason}")
        return result

    def map(self, function: Callable[[str, T], U]) -> EvalSets[U]:
        """Apply a function of a name and a set to every set there is."""
        return EvalSets({n: s if isinstance(s, NotMeasured) else function(n, s) for n, s in self.items()})


def encode_clips(codec: Codec, audio: Tensor) -> Tensor:
    """(n, ch, t) audio -> (n, k, l) codes, clip by clip; mono audio is repeated on the channels of the codec."""
    clips = audio.expand(-1, codec.channels, -1).to(device_of(codec)).split(1)
    return torch.cat([codec.encode(clip) for clip in clips])


def edit_mask_of(pipeline: Pipeline, audio: Tensor) -> EditMask:
    """(n, ch, t) audio -> what a perfect model would sample, clip by clip; nothing kept yet."""
    clips = audio.expand(-1, pipeline.codec.channels, -1).split(1)
    parts = [EditMask.from_audio(pipeline.codec, clip, pipeline.target) for clip in clips]
    codes, latents = (torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "latents"))
    return EditMask(codes, latents, torch.zeros_like(codes, dtype=torch.bool))


def first_stages_mask(splitter: Splitter, codec: Codec, frames: int, count: int) -> Tensor:
    """Return (1, k, l), True for the codes that the first `count` stages of a pattern generate."""
    shape = (1, codec.num_codebooks, codec.codebook_dim, frames)
    stages = splitter.split(torch.ones(shape))
    first = [stage if i < count else torch.zeros_like(stage) for i, stage in enumerate(stages)]
    return splitter.merge(first).amin(2) > 0


def noise_codes(pipeline: Pipeline, count: int, frames: int, *, seed: int = 0) -> Tensor:
    """Return the codes (n, k, l) of unit-variance noise: the baseline without a model."""
    shape = (pipeline.codec.num_codebooks, pipeline.codec.codebook_dim, frames)
    generators = [rng.generator("codecdiff.generate.noise_codes", seed, i) for i in range(count)]
    return pipeline.codec.quantize(rng.row_noise(shape, generators, pipeline.device))


def generate_sets(pipeline: Pipeline, prompts: Sequence[Prompt], source: EditMask, **sampling: Any) -> EvalSets[Tensor]:
    """Return the codes (n, k, l) of the sets that a model generates, for prompts and the real clips they describe.

    `generated`, an oracle for every number of stages but all, `codec reconstruction` and `noise`. `sampling`: fields
    of `GenerationConfig`.
    """
    noise = noise_codes(pipeline, len(prompts), source.frames, seed=sampling.get("seed", 0))
    sets = EvalSets[Tensor]({CODEC_RECONSTRUCTION: source.codes, NOISE: noise})
    for num_stages in range(len(pipeline.stage_names)):
        edit = None
        if num_stages:
            mask = first_stages_mask(pipeline.splitter, pipeline.codec, source.frames, num_stages)
            edit = source.keep(mask)
        codes = pipeline.generate_codes(list(prompts), source.frames, edit=edit, **sampling)
        sets[oracle(num_stages) if num_stages else GENERATED] = torch.cat(list(codes))
    return sets
