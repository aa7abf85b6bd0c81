"""The laws of splitters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codecdiff.interfaces import Splitter
from codecdiff.testing.assertions import (
    WHERE,
    elsewhere,
    noise,
    randomness_untouched,
    rebuilt,
    require,
    require_same,
    require_untouched,
)
from codecdiff.testing.checks import Checks, Result


@dataclass
class Trial:
    """A splitter, and the size of the latents that it is tried on: short ones, of one frame, even and odd."""

    splitter: Splitter
    dim: int = 3
    frames: int = 7
    label: str = ""

    @property
    def lengths(self) -> Sequence[int]:
        """Numbers of latent frames."""
        return sorted({1, 2, self.frames, self.frames + 1})

    def marks(self) -> Iterator[Tensor]:
        """(1, k, d, l) latents in which every number is another, from 1, for every length."""
        k, d = self.splitter.num_codebooks, self.dim
        for length in self.lengths:
            yield 1 + torch.arange(k * d * length, dtype=torch.float64).view(1, k, d, length)

    def latents(self) -> Iterator[Tensor]:
        """(2, k, d, l) those marks, and noise."""
        for marks in self.marks():
            yield torch.cat([marks, noise(*marks.shape).double()])


LAWS: Checks[Trial] = Checks("splitters")


def check_splitter(splitter: Splitter, *, dim: int = 3, frames: int = 7) -> list[Result]:
    """Check every law of a generation pattern, on latents of `dim` dimensions and 1, 2 and about `frames` frames.

    Raises AssertionError that lists the laws it breaks.
    """
    return LAWS.demand(splitter, Trial(splitter, dim, frames))


@LAWS.law
def inverse(trial: Trial) -> None:
    """`merge(split(latents)) == latents`, exactly, for any number of frames."""
    for latents in trial.latents():
        merged = trial.splitter.merge(trial.splitter.split(latents))
        require_same(merged, latents, f"merge(split(latents)) == latents must hold with {latents.shape[-1]} frames.")


@LAWS.law
def every_number_once(trial: Trial) -> None:
    """`split(1 + arange)` holds every number exactly once, and zeros elsewhere."""
    for marks in trial.marks():
        held = torch.cat([stage.flatten() for stage in trial.splitter.split(marks)])
        text = "split must hold every number once, and zeros elsewhere."
        require_same(held[held != 0].sort().values, marks.flatten(), text)


@LAWS.law
def padding(trial: Trial) -> None:
    """`split(ones)` is 1 where there are numbers and 0 where there is padding, whatever the numbers are."""
    for marks in trial.marks():
        masks = trial.splitter.split(torch.ones_like(marks))
        for i, (stage, mask) in enumerate(zip(trial.splitter.split(marks), masks, strict=True)):
            text = f"split(ones) of stage {i} must be 1 where there is music and 0 where there is padding."
            require_same(mask, (stage != 0).double(), text)


@LAWS.law
def batches(trial: Trial) -> None:
    """A row's stages do not depend on its batch."""
    for latents in trial.latents():
        alone = zip(*(trial.splitter.split(row) for row in latents.split(1)), strict=True)
        for stage, rows in zip(trial.splitter.split(latents), alone, strict=True):
            require_same(stage, torch.cat(rows), "A row's stages depend on its batch.")


@LAWS.law
def shapes(trial: Trial) -> None:
    """Stages are (b, c, l'), as many and with as many channels for any number of frames; tensors on the meta device, of
    shapes alone, are split and merged too.
    """
    channels: set[tuple[int, ...]] = set()
    for latents in trial.latents():
        found = [tuple(stage.shape) for stage in trial.splitter.split(latents)]
        right = found and all(len(shape) == 3 and shape[0] == 2 and min(shape) > 0 for shape in found)
        require(right, f"{tuple(latents.shape)} is split into {found}, not into stages (2, c, l') that hold something.")
        there = elsewhere("split", trial.splitter.split, torch.empty(*latents.shape, device="meta"))
        planned = [tuple(stage.shape) for stage in there]
        require(planned == found, f"A meta tensor is split into other shapes: {planned}, not {found}.")
        merged = elsewhere("merge", trial.splitter.merge, there)
        require(merged.is_meta, f"Stages on the meta device are merged on {merged.device}. {WHERE}")
        channels.add(tuple(shape[1] for shape in found))
    told = " or ".join(map(str, sorted(channels)))
    require(len(channels) == 1, f"Stages have {told} channels: it depends on how many frames there are.")


@LAWS.law
def context_length(trial: Trial) -> None:
    """The first stage has no context; that of a later one is (b, c', l') at the stage's own length, and has as many
    channels for any number of frames, on the meta device too.
    """
    channels: dict[int, int] = {}
    for latents in trial.latents():
        stages = trial.splitter.split(latents)
        shapes = [stage.to("meta") for stage in stages]
        for i, stage in enumerate(stages):
            context = trial.splitter.context(stages, i)
            require(i > 0 or context is None, "The first stage has nothing before it: its context is None.")
            fits = context is None or (context.ndim == 3 and context.shape[::2] == stage.shape[::2])
            given = None if context is None else tuple(context.shape)
            require(fits, f"Stage {i} has {stage.shape[-1]} frames; its context is {given}.")
            planned = elsewhere("context", trial.splitter.context, shapes, i)
            there = None if planned is None else tuple(planned.shape)
            require(there == given, f"The context of stage {i} is {given}, but {there} of stages on the meta device.")
            stays = planned is not None and not planned.is_meta
            require(not stays, f"The context of stage {i} is not where the stages are. {WHERE}")
            found = given[1] if given else 0
            text = f"The context of stage {i} has {channels.setdefault(i, found)} or {found} channels"
            require(found == channels[i], f"{text}: it depends on how many frames there are.")


@LAWS.law
def context_order(trial: Trial) -> None:
    """The context of a stage reads the stages before it alone: they are made in this order."""
    for latents in trial.latents():
        stages = trial.splitter.split(latents)
        for i in range(1, len(stages)):
            context = trial.splitter.context(stages, i)
            unread = [*stages[:i], *(torch.full_like(stage, torch.nan) for stage in stages[i:])]
            again = trial.splitter.context(unread, i)
            same = context is again or (None not in (context, again) and torch.equal(again, context))  # pyright: ignore
            require(same, f"The context of stage {i} reads stages that come later.")


@LAWS.law
def inputs_untouched(trial: Trial) -> None:
    """Neither latents nor stages are changed in place."""
    for latents in trial.latents():
        require_untouched(trial.splitter.split, latents.clone(), name="split")
        stages = [stage.clone() for stage in trial.splitter.split(latents)]
        require_untouched(lambda *given: trial.splitter.merge(given), *stages, name="merge")
        for i in range(len(stages)):
            require_untouched(lambda *given, i=i: trial.splitter.context(given, i), *stages, name="context")


@LAWS.law
def no_global_randomness(trial: Trial) -> None:
    """The global generators of torch, numpy and random stand where they stood."""
    with randomness_untouched(trial.splitter):
        for latents in trial.latents():
            trial.splitter.merge(trial.splitter.split(latents))


@LAWS.law
def save_and_load(trial: Trial) -> None:
    """Built again from its options as JSON, it makes the same stages."""
    again = rebuilt("splitters", trial.splitter)
    count = trial.splitter.num_codebooks
    require(again.num_codebooks == count, f"Built again it has {again.num_codebooks} codebooks, not {count}.")
    for latents in trial.latents():
        stages, others = trial.splitter.split(latents), again.split(latents)
        require(len(stages) == len(others), f"Built again it makes {len(others)} stages, not {len(stages)}.")
        for stage, other in zip(stages, others, strict=True):
            require_same(other, stage, "Built again from its options as JSON, it makes other stages.")
