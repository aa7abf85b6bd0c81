"""Generation patterns. Coarse-first, N groups and parallel are one class with different lists.

The patterns are those of MusicGen (Copet et al., 2023, figure 1) and of DiscoDiff (Lanzendörfer, Lu et al.).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from codecdiff.interfaces import Splitter


def parse_stages(stages: str, levels: Sequence[int]) -> list[list[int]]:
    """Read `"0|1-2|3-8"` as one list of levels per stage.

    Raises ValueError unless every level of the codec stands in exactly one stage.
    """
    present = sorted(set(levels))
    example = "|".join([str(present[0]), f"{present[1]}-{present[-1]}"] if len(present) > 2 else map(str, present))
    try:
        groups = [[level for part in stage.split(",") for level in span(part)] for stage in stages.split("|")]
    except ValueError:
        raise ValueError(f"'{stages}' cannot be read as stages. Write levels and ranges, as in '{example}'.") from None
    named = [level for group in groups for level in group]
    repeated = sorted({level for level in named if named.count(level) > 1})
    for fault, found in (
        ("repeats", repeated),
        ("misses", sorted(set(present) - set(named))),
        ("names unknown", sorted(set(named) - set(present))),
    ):
        if found:
            raise ValueError(
                f"stages='{stages}' {fault} level {', '.join(map(str, found[:9]))}. "
                f"The codec has levels {present[0]} to {present[-1]}; each must stand in one stage, as in '{example}'."
            )
    return groups


def span(text: str) -> range:
    """Read "3" or "1-4" as a range of levels. Raises ValueError for anything else."""
    first, dash, last = text.strip().partition("-")
    span = range(int(first), int(last if dash else first) + 1)[:1000]  # more than any codec has
    if not span:
        raise ValueError(text)
    return span


def stage_names(count: int) -> list[str]:
    """Name the stages of a pattern: primary and secondary when there are two, else stage1, stage2..."""
    return ["primary", "secondary"] if count == 2 else [f"stage{i + 1}" for i in range(count)]


def is_stage_name(name: str) -> bool:
    """Tell whether the stages of some pattern may be called so."""
    return re.fullmatch(r"primary|secondary|stage[1-9]\d*", name) is not None


def chosen_stages(names: Sequence[str], asked: str, others: Iterable[str]) -> tuple[list[int], list[str]]:
    """Give the places of the stages asked for, all or one by its name, and those of `others` that are not in `names`.

    Raises ValueError for a name asked for that is not there, and for one of `others` that no pattern has.
    """
    unknown = sorted({*others} - {*names})
    for name in [*({asked} - {"all", *names}), *(name for name in unknown if not is_stage_name(name))]:
        raise ValueError(f"No stage '{name}'. This pattern has: {', '.join(names)}.")
    return [i for i, name in enumerate(names) if asked in ("all", name)], unknown


class Grouped(Splitter):
    """Codebooks in groups, one group per stage: `stages="0|1-2|3-8"` names the levels of three."""

    def __init__(self, stages: str, *, num_codebooks: int, levels: Sequence[int] | None = None):
        self.num_codebooks = num_codebooks
        levels = list(range(num_codebooks)) if levels is None else list(levels)
        groups = parse_stages(stages, levels)
        self.groups = [[row for row, level in enumerate(levels) if level in group] for group in groups]

    def split(self, latents: Tensor) -> list[Tensor]:
        """(b, k, d, l) latents -> one (b, k' * d, l) tensor per group of k' codebooks."""
        return [rearrange(latents[:, rows], "b k d l -> b (k d) l") for rows in self.groups]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """One (b, k' * d, l) tensor per group -> (b, k, d, l) latents."""
        pairs = zip(stages, self.groups, strict=True)
        grouped = [rearrange(stage, "b (k d) l -> b k d l", k=len(rows)) for stage, rows in pairs]
        order = [row for rows in self.groups for row in rows]
        back = sorted(range(self.num_codebooks), key=order.__getitem__)
        return torch.cat(grouped, dim=1)[:, back]


class CoarseFirst(Grouped):
    """The pattern of DiscoDiff: the coarsest level first, then all the others together."""

    def __init__(self, *, num_codebooks: int, levels: Sequence[int] | None = None):
        present = sorted(set(range(num_codebooks) if levels is None else levels))
        stages = str(present[0]) if len(present) == 1 else f"{present[0]}|{','.join(map(str, present[1:]))}"
        super().__init__(stages, num_codebooks=num_codebooks, levels=levels)


class Parallel(Grouped):
    """All codebooks at once, in one stage."""

    def __init__(self, *, num_codebooks: int):
        super().__init__(",".join(map(str, range(num_codebooks))), num_codebooks=num_codebooks)


class Delayed(Splitter):
    """All codebooks in one stage, codebook i shifted right by i * delay frames."""

    def __init__(self, *, delay: int = 1, num_codebooks: int):
        if delay < 1:
            raise ValueError(f"delay={delay} frames: a delayed pattern needs at least 1; use 'parallel' for none.")
        self.num_codebooks = num_codebooks
        self.delay = delay

    def split(self, latents: Tensor) -> list[Tensor]:
        """(b, k, d, l) latents -> one (b, k * d, l + (k - 1) * delay) tensor."""
        total = (self.num_codebooks - 1) * self.delay
        shifted = [pad(latents[:, i], (i * self.delay, total - i * self.delay)) for i in range(self.num_codebooks)]
        return [torch.cat(shifted, dim=1)]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """One (b, k * d, l + (k - 1) * delay) tensor -> (b, k, d, l) latents."""
        rows = rearrange(stages[0], "b (k d) l -> b k d l", k=self.num_codebooks)
        frames = rows.shape[-1] - (self.num_codebooks - 1) * self.delay
        return torch.stack([rows[:, i, :, i * self.delay :][..., :frames] for i in range(self.num_codebooks)], dim=1)


class Flattened(Splitter):
    """One stage of d channels, the codebooks of a frame one after the other in time."""

    def __init__(self, *, num_codebooks: int):
        self.num_codebooks = num_codebooks

    def split(self, latents: Tensor) -> list[Tensor]:
        """(b, k, d, l) latents -> one (b, d, l * k) tensor."""
        return [rearrange(latents, "b k d l -> b d (l k)")]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """One (b, d, l * k) tensor -> (b, k, d, l) latents."""
        return rearrange(stages[0], "b d (l k) -> b k d l", k=self.num_codebooks)
