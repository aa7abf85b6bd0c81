"""The checks of splitters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codecdiff.errors import ConfigError, InvalidValue
from codecdiff.interfaces import Splitter
from codecdiff.testing import assertions
from codecdiff.testing.assertions import (
    DEVICE_HINT,
    Call,
    assert_same,
    assert_that,
    build_again,
    call_on_meta,
    white_noise,
)
from codecdiff.testing.checks import Checks, PartChecks, Result
from codecdiff.testing.runner import CheckRequest, CheckRun

# Levels of codebooks: few, many, and the two channels of a codec of three codebooks
PATTERNS: tuple[Sequence[int], ...] = (range(1), range(2), range(4), range(9), (0, 1, 2, 0, 1, 2))


@dataclass
class SplitterCase:
    """A splitter, and the size of the latents that it is checked on: short ones, of one frame, even and odd."""

    part: Splitter
    dim: int = 3
    frames: int = 7
    label: str = ""

    def arange(self) -> Iterator[Tensor]:
        """Yield (1, k, d, l) latents in which every number is another, from 1, for every length."""
        k, d = self.part.num_codebooks, self.dim
        for length in sorted({1, 2, self.frames, self.frames + 1}):
            yield 1 + torch.arange(k * d * length, dtype=torch.float64).view(1, k, d, length)

    def latents(self) -> Iterator[Tensor]:
        """Yield (2, k, d, l): those numbers, and noise."""
        for marks in self.arange():
            yield torch.cat([marks, white_noise(*marks.shape).double()])

    def calls(self) -> Iterator[Call]:
        """Yield every method with latents or stages of every length."""
        for latents in self.latents():
            yield Call("split", self.part.split, (latents,))
            stages = [stage.clone() for stage in self.part.split(latents.clone())]
            yield Call("merge", self.part.merge, (stages,))
            for i in range(len(stages)):
                yield Call("context", self.part.context, (stages, i))


CHECKS: Checks[SplitterCase] = Checks("splitters")


def check_splitter(splitter: Splitter, *, dim: int = 3, frames: int = 7) -> list[Result]:
    """Run every check of a splitter, on latents of `dim` dimensions and 1, 2 and about `frames` frames.

    Raises AssertionError that lists the checks it fails.
    """
    return CHECKS.assert_all(splitter, SplitterCase(splitter, dim, frames))


def run_checks(request: CheckRequest) -> CheckRun:
    """Build a splitter for several numbers of codebooks, and run its checks. Raises ValueError if it refuses all."""
    cases: list[SplitterCase] = []
    refused: dict[str, Exception] = {}
    for levels in PATTERNS:
        count, distinct = len(levels), len(set(levels))
        label = f"{count} codebook{'s' * (count > 1)}{f' on {distinct} levels' if distinct < count else ''}"
        try:
            cases.append(SplitterCase(request.build(num_codebooks=count, levels=list(levels)), label=label))
        except ConfigError:
            raise
        except ValueError as error:  # stages that name the levels of another number of codebooks
            refused[label] = error
    if not cases:
        reasons = "\n".join(f"  {label}: {error}" for label, error in refused.items())
        raise InvalidValue(f"'{request.name}' can be built for none of:\n{reasons}\n{request.hint()}")
    notes = [f"checked with {', '.join(case.label for case in cases)}"]
    notes += [f"not with {', '.join(refused)}, which it refuses"] if refused else []
    return CheckRun(cases[0].part, notes, CHECKS.run(cases[0].part, *cases))


@CHECKS.check
def check_inverse(case: SplitterCase) -> None:
    """`merge(split(latents)) == latents`, exactly, for any number of frames."""
    for latents in case.latents():
        merged = case.part.merge(case.part.split(latents))
        assert_same(merged, latents, f"merge(split(latents)) == latents must hold with {latents.shape[-1]} frames.")


@CHECKS.check
def check_every_number_once(case: SplitterCase) -> None:
    """`split(1 + arange)` holds every number exactly once, and zeros elsewhere."""
    for marks in case.arange():
        stages = torch.cat([stage.flatten() for stage in case.part.split(marks)])
        text = "split must hold every number once, and zeros elsewhere."
        assert_same(stages[stages != 0].sort().values, marks.flatten(), text)


@CHECKS.check
def check_padding(case: SplitterCase) -> None:
    """`split(ones)` is 1 where there are numbers and 0 where there is padding, whatever the numbers are."""
    for marks in case.arange():
        masks = case.part.split(torch.ones_like(marks))
        for i, (stage, mask) in enumerate(zip(case.part.split(marks), masks, strict=True)):
            text = f"split(ones) of stage {i} must be 1 where there is music and 0 where there is padding."
            assert_same(mask, (stage != 0).double(), text)


@CHECKS.check
def check_batches(case: SplitterCase) -> None:
    """A row's stages do not depend on its batch."""
    for latents in case.latents():
        alone = zip(*(case.part.split(row) for row in latents.split(1)), strict=True)
        for stage, rows in zip(case.part.split(latents), alone, strict=True):
            assert_same(stage, torch.cat(rows), "A row's stages depend on its batch.")


@CHECKS.check
def check_shapes(case: SplitterCase) -> None:
    """Stages are (b, c, l'), with a number of stages and channels that does not depend on the number of frames; tensors
    on the meta device are split and merged too.
    """
    channels: set[tuple[int, ...]] = set()
    for latents in case.latents():
        sizes = [tuple(stage.shape) for stage in case.part.split(latents)]
        valid = sizes and all(len(shape) == 3 and shape[0] == 2 and min(shape) > 0 for shape in sizes)
        assert_that(valid, f"{tuple(latents.shape)} is split into {sizes}, not into stages (2, c, l') with numbers.")
        meta = call_on_meta("split", case.part.split, torch.empty(*latents.shape, device="meta"))
        planned = [tuple(stage.shape) for stage in meta]
        assert_that(planned == sizes, f"A meta tensor is split into other shapes: {planned}, not {sizes}.")
        merged = call_on_meta("merge", case.part.merge, meta)
        assert_that(merged.is_meta, f"Stages on the meta device are merged on {merged.device}. {DEVICE_HINT}")
        channels.add(tuple(shape[1] for shape in sizes))
    options = " or ".join(map(str, sorted(channels)))
    assert_that(len(channels) == 1, f"Stages have {options} channels: it depends on how many frames there are.")


@CHECKS.check
def check_context_length(case: SplitterCase) -> None:
    """The first stage has no context; that of a later one is (b, c', l') at the stage's own length, and has the same
    number of channels for any number of frames, on the meta device too.
    """
    channels: dict[int, int] = {}
    for latents in case.latents():
        stages = case.part.split(latents)
        for i, stage in enumerate(stages):
            context = case.part.context(stages, i)
            assert_that(i > 0 or context is None, "The context of the first stage must be None.")
            fits = context is None or (context.ndim == 3 and context.shape[::2] == stage.shape[::2])
            shape = None if context is None else tuple(context.shape)
            assert_that(fits, f"Stage {i} has {stage.shape[-1]} frames; its context is {shape}.")
            meta = call_on_meta("context", case.part.context, [each.to("meta") for each in stages], i)
            planned = None if meta is None else tuple(meta.shape)
            assert_that(planned == shape, f"The context of stage {i} is {shape}, but {planned} on the meta device.")
            elsewhere = meta is not None and not meta.is_meta
            assert_that(not elsewhere, f"The context of stage {i} is not where the stages are. {DEVICE_HINT}")
            count = shape[1] if shape else 0
            text = f"The context of stage {i} has {channels.setdefault(i, count)} or {count} channels"
            assert_that(count == channels[i], f"{text}: it depends on how many frames there are.")


@CHECKS.check
def check_context_order(case: SplitterCase) -> None:
    """The context of a stage reads only the stages before it, which are generated first."""
    for latents in case.latents():
        stages = case.part.split(latents)
        for i in range(1, len(stages)):
            context = case.part.context(stages, i)
            hidden = [*stages[:i], *(torch.full_like(stage, torch.nan) for stage in stages[i:])]
            again = case.part.context(hidden, i)
            same = context is again or (None not in (context, again) and torch.equal(again, context))  # pyright: ignore
            assert_that(same, f"The context of stage {i} reads stages that come later.")


for shared in (assertions.check_inputs_untouched, assertions.check_no_global_randomness):
    CHECKS.check(shared)


@CHECKS.check
def check_save_and_load(case: SplitterCase) -> None:
    """Rebuilt from its options as JSON, it returns the same stages."""
    again, count = build_again("splitters", case.part), case.part.num_codebooks
    assert_that(again.num_codebooks == count, f"Rebuilt it has {again.num_codebooks} codebooks, not {count}.")
    for latents in case.latents():
        stages, others = case.part.split(latents), again.split(latents)
        assert_that(len(stages) == len(others), f"Rebuilt it returns {len(others)} stages, not {len(stages)}.")
        for stage, other in zip(stages, others, strict=True):
            assert_same(other, stage, "Rebuilt from its options as JSON, it returns other stages.")


class SplitterChecks(PartChecks, checks=CHECKS, case=SplitterCase):
    """The checks of a splitter as a pytest class: subclass it, and define `part`."""

    dim, frames = 3, 7  # of the latents
