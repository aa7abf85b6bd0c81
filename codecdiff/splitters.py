"""Generation patterns. Coarse-first, N groups and parallel are one class with different lists.

The patterns are those of MusicGen (Copet et al., 2023, figure 1) and of DiscoDiff (Lanzendörfer, Lu et al.).
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from codecdiff.errors import InvalidValue
from codecdiff.interfaces.splitter import Splitter

__all__ = [
    "CoarseFirst",
    "Delayed",
    "Flattened",
    "Grouped",
    "Parallel",
    "is_stage_name",
    "parse_range",
    "parse_stages",
    "select_stages",
    "stage_names",
]


def parse_stages(stages: str, levels: Sequence[int]) -> list[list[int]]:
    """Parse `"0|1-2|3-8"` into one list of levels per stage; `"1x|2x-8x"` names levels by their rates.

    Raises ValueError unless every level of the codec is in exactly one stage.
    """
    present = sorted(set(levels))
    example = "|".join([str(present[0]), f"{present[1]}-{present[-1]}"] if len(present) > 2 else map(str, present))
    try:
        groups = [
            [level for part in stage.split(",") for level in _of_rate(part, levels) or parse_range(part)]
            for stage in stages.split("|")
        ]
    except InvalidValue:
        raise
    except ValueError:
        hint = " Leave out the quotation marks." if re.search("['\"]", stages) else ""
        text = f"Invalid stages '{stages}': expected levels and ranges, as in '{example}'.{hint}"
        raise InvalidValue(text) from None
    named = [level for group in groups for level in group]
    repeated = sorted({level for level in named if named.count(level) > 1})
    for issue, wrong in (
        ("repeats", repeated),
        ("misses", sorted(set(present) - set(named))),
        ("names unknown", sorted(set(named) - set(present))),
    ):
        if wrong:
            raise InvalidValue(
                f"stages='{stages}' {issue} level{'s' * (len(wrong) > 1)} {_ranges(wrong)}. "
                f"The codec has levels {present[0]} to {present[-1]}; each must be in one stage, as in '{example}'."
            )
    return groups


def _ranges(levels: Sequence[int]) -> str:
    """Return levels in ascending order as in "0, 3-5"."""
    first = [level for level in levels if level - 1 not in levels]
    last = [level for level in levels if level + 1 not in levels]
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in zip(first, last, strict=True))


def _of_rate(text: str, levels: Sequence[int]) -> list[int]:
    """Return the levels of a rate "2x", or of the rates "2x-8x": so many times the codes of the slowest level.

    Empty if `text` names no rate. Raises InvalidValue for a rate that no level has.
    """
    match = re.fullmatch(r"\s*(\d{1,6})x(?:-(\d{1,6})x)?\s*", text)
    if match is None:
        return []
    counts = Counter(levels)
    rates = {level: counts[level] / min(counts.values()) for level in sorted(counts)}
    named = [level for level, rate in rates.items() if int(match[1]) <= rate <= int(match[2] or match[1])]
    if not named:
        present = ", ".join(f"{rate:g}x" for rate in sorted(set(rates.values())))
        raise InvalidValue(f"No level has the rate '{text.strip()}'. The rates of the codec's levels are {present}.")
    return named


def parse_range(text: str) -> range:
    """Parse "3" or "1-4" into a range of levels. Raises ValueError for anything else."""
    first, dash, last = text.strip().partition("-")
    levels = range(int(first), int(last if dash else first) + 1)[:1000]  # more than any codec has
    if not levels:
        raise ValueError(text)
    return levels


def stage_names(count: int) -> list[str]:
    """Return the names of the stages of a pattern: primary and secondary if there are two, else stage1, stage2..."""
    return ["primary", "secondary"] if count == 2 else [f"stage{i + 1}" for i in range(count)]


def is_stage_name(name: str) -> bool:
    """Return whether a stage of any pattern can have this name."""
    return re.fullmatch(r"primary|secondary|stage[1-9]\d*", name) is not None


def select_stages(
    names: Sequence[str], stage: str, overrides: Iterable[str], assignments: Sequence[str] = ()
) -> tuple[list[int], list[str]]:
    """Return the indices of the selected stages of a pattern, of `names`: the one called `stage`, or "all".

    Beside them, those of `overrides`, names of stages with settings of their own, that this pattern lacks. Raises
    ValueError if `stage` is not one of the names, one of `overrides` is not a stage of any pattern, or one of
    `assignments`, `key=value` of the command line, is for a stage that this pattern lacks. Guidance scales may be of
    any stage: `codecdiff train` adds those of the configuration file.
    """
    unused, keys = sorted({*overrides} - {*names}), [text.split("=")[0].split(".") for text in assignments]
    typed = {key[1] for key in keys if key[0] == "stages" and len(key) > 1 and key[-1] != "guidance_scale"}
    for name in [*({stage} - {"all", *names}), *(n for n in unused if n in typed or not is_stage_name(n))]:
        raise InvalidValue(f"No stage '{name}'. This pattern has: {', '.join(names)}.")
    return [i for i, name in enumerate(names) if stage in ("all", name)], unused


class Grouped(Splitter):
    """Codebooks in groups, one group per stage: `stages="0|1-2|3-8"` names the levels of three.

    A level that has twice as many codes as the slowest has the rate 2x: `stages="1x|2x-8x"` names rates.
    """

    def __init__(self, stages: str, *, num_codebooks: int, levels: Sequence[int] | None = None):
        self.num_codebooks = num_codebooks
        levels = list(range(num_codebooks)) if levels is None else list(levels)
        groups = parse_stages(stages, levels)
        if groups != sorted(groups):
            warnings.warn(f"stages='{stages}' generates fine levels before coarser ones.", stacklevel=2)
        self.groups = [[row for row, level in enumerate(levels) if level in group] for group in groups]

    def split(self, latents: Tensor) -> list[Tensor]:
        """Split latents (b, k, d, l) into one tensor (b, k' * d, l) per group of k' codebooks."""
        return [rearrange(latents[:, rows], "b k d l -> b (k d) l") for rows in self.groups]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """Merge one tensor (b, k' * d, l) per group to latents (b, k, d, l)."""
        pairs = zip(stages, self.groups, strict=True)
        grouped = [rearrange(stage, "b (k d) l -> b k d l", k=len(rows)) for stage, rows in pairs]
        order = [row for rows in self.groups for row in rows]
        inverse = sorted(range(self.num_codebooks), key=order.__getitem__)
        return torch.cat(grouped, dim=1)[:, inverse]


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
        if not 1 <= delay <= 10_000:
            raise InvalidValue(f"delay={delay} frames: expected 1 to 10,000; use 'parallel' for none.")
        self.num_codebooks = num_codebooks
        self.delay = delay

    def split(self, latents: Tensor) -> list[Tensor]:
        """Split latents (b, k, d, l) into one tensor (b, k * d, l + (k - 1) * delay)."""
        total = (self.num_codebooks - 1) * self.delay
        shifted = [pad(latents[:, i], (i * self.delay, total - i * self.delay)) for i in range(self.num_codebooks)]
        return [torch.cat(shifted, dim=1)]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """Merge one tensor (b, k * d, l + (k - 1) * delay) to latents (b, k, d, l)."""
        rows = rearrange(stages[0], "b (k d) l -> b k d l", k=self.num_codebooks)
        frames = rows.shape[-1] - (self.num_codebooks - 1) * self.delay
        return torch.stack([rows[:, i, :, i * self.delay :][..., :frames] for i in range(self.num_codebooks)], dim=1)


class Flattened(Splitter):
    """One stage of d channels, the codebooks of a frame one after the other in time."""

    def __init__(self, *, num_codebooks: int):
        self.num_codebooks = num_codebooks

    def split(self, latents: Tensor) -> list[Tensor]:
        """Split latents (b, k, d, l) into one tensor (b, d, l * k)."""
        return [rearrange(latents, "b k d l -> b d (l k)")]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """Merge one tensor (b, d, l * k) to latents (b, k, d, l)."""
        return rearrange(stages[0], "b d (l k) -> b k d l", k=self.num_codebooks)
