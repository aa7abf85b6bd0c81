"""The laws of denoisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.interfaces import Condition, ConditionTokens, Denoiser
from codecdiff.testing.assertions import (
    elsewhere,
    noise,
    randomness_untouched,
    require,
    require_other_device,
    require_other_precision,
    require_same,
)
from codecdiff.testing.checks import CheckFailed, Checks, NotApplicable, Result

Inputs = tuple[Tensor, Tensor, Tensor | None]  # noisy latents, timesteps, context
LEARNED = 0.5  # of the loss of predicting zeros, below which a batch counts as learned
STEPS = 80  # of AdamW at most
LONG = 5003  # latent frames, about a minute


@dataclass
class Trial:
    """A function that builds a denoiser, the sizes it is built for, and what it is told."""

    make: Callable[..., Denoiser]
    widths: Mapping[str, int]
    channels: int = 4
    context_channels: int = 3
    lengths: Sequence[int] = (1, 7, 16, 33)  # latent frames
    label: str = ""

    def build(self, seed: int = 0, **others: Any) -> Denoiser:
        """Build one as it comes from its constructor, by a fixed seed; `others` are supplied in place of the usual."""
        usual = {"channels": self.channels, "context_channels": self.context_channels}
        with _seeded(seed):  # its weights are drawn
            return self.make(**{**usual, "condition_widths": dict(self.widths), **others}).eval()

    def moved(self, seed: int = 7, **others: Any) -> Denoiser:
        """Build one and move its weights a little, so that a layer that starts at zero cannot hide anything."""
        denoiser = self.build(seed, **others)
        with torch.no_grad():
            for number, parameter in enumerate(denoiser.parameters()):
                parameter.add_(0.1 * noise(*parameter.shape, seed=seed + 1000 * number))
        return denoiser

    @cached_property
    def denoiser(self) -> Denoiser:
        """The one that most laws are tried on."""
        return self.moved()

    @cached_property
    def condition(self) -> Condition:
        """Of three rows: whole, half and absent."""
        return condition_of(self.widths)

    @cached_property
    def inputs(self) -> Inputs:
        """Three rows of the longest length."""
        return self.inputs_of(max(self.lengths))

    def inputs_of(self, frames: int) -> Inputs:
        """Three rows of noise, of this many latent frames."""
        context = noise(3, self.context_channels, frames, seed=1) if self.context_channels else None
        return noise(3, self.channels, frames), torch.tensor([3, 40, 90]), context

    @cached_property
    def plain(self) -> Tensor:
        """What the denoiser predicts."""
        return self.predict()

    @torch.no_grad()
    def predict(
        self, condition: Condition | None = None, denoiser: Denoiser | None = None, inputs: Inputs | None = None
    ) -> Tensor:
        """Predict from these, or from what is usual."""
        return (denoiser or self.denoiser)(*(inputs or self.inputs), condition or self.condition)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let torch draw from this seed inside, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def condition_of(widths: Mapping[str, int], tokens: int = 5) -> Condition:
    """Make a condition of three rows: of so many real tokens, of two, and absent."""
    mask = torch.arange(tokens) < torch.tensor([[tokens], [2], [0]])
    return Condition({name: ConditionTokens(noise(3, tokens, e, seed=e), mask) for name, e in widths.items()})


LAWS: Checks[Trial] = Checks("denoisers")


def check_denoiser(
    make: Callable[..., Denoiser],
    *,
    widths: Mapping[str, int] | None = None,
    channels: int = 4,
    context_channels: int = 3,
    lengths: Sequence[int] = (1, 7, 16, 33),
) -> list[Result]:
    """Check every law of a denoiser.

    `make(channels=, context_channels=, condition_widths=)` builds a small one; its weights are moved a little, so
    that a layer that starts at zero cannot hide anything. `widths` are those of the conditions it can read.

    Raises AssertionError that lists the laws it breaks.
    """
    trial = Trial(make, {"text": 6} if widths is None else widths, channels, context_channels, lengths)
    return LAWS.demand(trial.build(), trial)


@LAWS.law
def facts(trial: Trial) -> None:
    """It says the channels, context_channels and condition_widths that it was built for."""
    given = trial.channels, trial.context_channels, dict(trial.widths)
    denoiser = trial.denoiser
    found = denoiser.channels, denoiser.context_channels, dict(denoiser.condition_widths)
    require(found == given, f"Built for channels, context_channels and condition_widths {given}, it says {found}.")


@LAWS.law
def lengths(trial: Trial) -> None:
    """Any number of frames, 1, odd ones and those of a minute too, gives a prediction of the same shape, finite and not
    zero.
    """
    for frames in trial.lengths:
        found = trial.predict(inputs=trial.inputs_of(frames))
        wanted = (3, trial.channels, frames)
        require(found.shape == wanted, f"{frames} frames become {tuple(found.shape)}, not {wanted}.")
        good = found.isfinite().all() and found.abs().max() > 0
        require(good, f"The prediction of {frames} frames is zero or not finite.")
    noisy, steps, context = trial.inputs_of(LONG)
    one = noisy[:1], steps[:1], None if context is None else context[:1]
    found = trial.predict(trial.condition.rows([0]), inputs=one)
    require(found.shape == noisy[:1].shape, f"{LONG} frames become {tuple(found.shape)}, not {tuple(noisy[:1].shape)}.")


@LAWS.law
def deterministic(trial: Trial) -> None:
    """In evaluation mode the same inputs give exactly the same prediction."""
    require_same(trial.predict(), trial.plain, "The prediction is not deterministic.")


@LAWS.law
def no_global_randomness(trial: Trial) -> None:
    """In evaluation mode the global generators of torch, numpy and random stand where they stood."""
    denoiser = trial.denoiser
    with randomness_untouched(denoiser):
        trial.predict()


@LAWS.law
def inputs_untouched(trial: Trial) -> None:
    """None of its inputs is changed in place."""

    def all_of(inputs: Inputs, condition: Condition) -> list[Tensor]:
        told = [tensor for entry in condition.values() for tensor in entry]
        return [tensor.clone() for tensor in (*inputs, *told) if tensor is not None]

    inputs, condition = trial.inputs_of(max(trial.lengths)), condition_of(trial.widths)
    before = all_of(inputs, condition)
    trial.predict(condition, inputs=inputs)
    after = all_of(inputs, condition)
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    require(same, "A prediction changes its inputs in place.")


@LAWS.law
def neighbours(trial: Trial) -> None:
    """The prediction of a row does not depend on the rows beside it, in training neither."""
    noisy, steps, context = trial.inputs
    for row in range(3):
        one = slice(row, row + 1)
        inputs = (noisy[one], steps[one], None if context is None else context[one])
        alone = trial.predict(trial.condition.rows(one), inputs=inputs)
        require_same(alone, trial.plain[one], f"Row {row} depends on its neighbours.", 1e-4)
    norms = [name for name, m in trial.denoiser.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    require(not norms, f"In training, {', '.join(norms)} normalises a row by its neighbours: GroupNorm does not.")


@LAWS.law
def masked_tokens(trial: Trial) -> None:
    """What masked tokens hold, and how many of them there are, changes nothing."""
    garbage = trial.condition.map(lambda _, e: (torch.where(e.mask[..., None], e.tokens, 100 + e.tokens), e.mask))
    require_same(trial.predict(garbage), trial.plain, "Masked tokens change the prediction.", 1e-4)
    longer = Condition.cat([trial.condition, condition_of(trial.widths, tokens=9)]).rows(slice(3))
    require_same(trial.predict(longer), trial.plain, "Padding the tokens changes the prediction.", 1e-4)


@LAWS.law
def dropped_condition(trial: Trial) -> None:
    """A condition that is dropped is one that never was: the learned null of its name takes its place."""
    for name, entry in trial.condition.items():
        absent = ConditionTokens(torch.zeros_like(entry.tokens[:, :1]), torch.zeros_like(entry.mask[:, :1]))
        none = Condition({**trial.condition, name: absent})
        dropped = trial.condition.drop(torch.ones(3, dtype=torch.bool), name)
        text = f"'{name}' dropped is not the learned null of '{name}'."
        require_same(trial.predict(dropped), trial.predict(none), text, 1e-4)


@LAWS.law
def reads_conditions(trial: Trial) -> None:
    """Every condition that it says it reads changes the prediction."""
    for name in trial.widths:
        require(not ignores(trial, name), f"'{name}' changes nothing.")


def ignores(trial: Trial, name: str) -> bool:
    """Tell whether a prediction is the same without the condition of this name."""
    dropped = trial.condition.drop(torch.ones(3, dtype=torch.bool), name)
    return torch.allclose(trial.predict(dropped), trial.plain, atol=1e-5)


@LAWS.law
def reads_inputs(trial: Trial) -> None:
    """Noisy latents, timestep and, where there are context channels, context change the prediction."""
    noisy, steps, context = trial.inputs
    others: dict[str, Inputs] = {
        "noisy latents": (noisy + noise(*noisy.shape, seed=5), steps, context),
        "timestep": (noisy, steps + 7, context),
    }
    if context is not None:
        others["context"] = (noisy, steps, context + noise(*context.shape, seed=6))
    unread = [name for name, i in others.items() if torch.allclose(trial.predict(inputs=i), trial.plain, atol=1e-5)]
    require(not unread, f"The {' and the '.join(unread)} changes nothing.")


@LAWS.law
def fractional_steps(trial: Trial) -> None:
    """Steps may be fractions, as samplers ask for those between two of training: a whole one given as a float predicts
    what it does as an integer.
    """
    noisy, steps, context = trial.inputs
    text = "Steps given as floats predict otherwise than as integers."
    require_same(trial.predict(inputs=(noisy, steps.float(), context)), trial.plain, text, 1e-4)
    between = trial.predict(inputs=(noisy, steps + 0.5, context))
    require(between.isfinite().all(), "Between two steps, the prediction is not finite.")


@LAWS.law
def no_condition(trial: Trial) -> None:
    """Built for no conditions it works with an empty one, or refuses to be built by a ValueError."""
    try:
        denoiser = trial.moved(condition_widths={})
    except ValueError as error:
        raise NotApplicable(f"it refuses: {error}") from error
    alone = trial.predict(Condition({}), denoiser)
    good = alone.shape == trial.inputs[0].shape and alone.isfinite().all()
    require(good, "Without conditions the prediction is of another shape, or not finite.")


@LAWS.law
def no_context(trial: Trial) -> None:
    """Built with context_channels=0 it works with None for a context, and one it is given it refuses by a ValueError or
    does not read.
    """
    denoiser = trial.moved(context_channels=0)
    noisy, steps, _ = trial.inputs
    alone = trial.predict(denoiser=denoiser, inputs=(noisy, steps, None))
    require(alone.shape == noisy.shape, f"Without context the prediction is {tuple(alone.shape)}.")
    try:
        beside = trial.predict(denoiser=denoiser, inputs=(noisy, steps, noise(3, 3, noisy.shape[-1], seed=1)))
    except ValueError:
        return
    require_same(beside, alone, "Built without context, it reads one.")


@LAWS.law
def gradients(trial: Trial) -> None:
    """A gradient reaches every parameter, the learned nulls too."""
    denoiser = trial.moved()
    denoiser(*trial.inputs, trial.condition).square().sum().backward()
    silent = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    require(not silent, f"No gradient reaches {silent}. What does not learn is a buffer, what is not used goes.")


@LAWS.law
def overfits(trial: Trial) -> str:
    """From the weights of its constructor, some dozen steps of AdamW on one small batch bring the loss to half that of
    predicting zeros.
    """
    denoiser, inputs = trial.build().train(), trial.inputs_of(8)
    target, losses = noise(3, trial.channels, 8, seed=9), []
    nothing = target.square().mean().item()
    with _seeded(0):
        optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(STEPS):
            loss = functional.mse_loss(denoiser(*inputs, trial.condition), target)
            losses.append(loss.item())
            if losses[-1] < LEARNED * nothing:
                return f"in {len(losses) - 1} steps"
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    raise CheckFailed(
        f"{STEPS} steps on one batch bring the loss to {min(losses):.3g}; predicting zeros gives {nothing:.3g}."
    )


@LAWS.law
def prepare_for_sampling(trial: Trial) -> None:
    """`prepare_for_sampling` gives an equal of it for the same timesteps and condition."""
    with torch.no_grad():
        denoiser = trial.denoiser.prepare_for_sampling(trial.inputs[1], trial.condition)
    if denoiser is trial.denoiser:
        raise NotApplicable("prepare_for_sampling returns the denoiser itself")
    require_same(
        trial.predict(denoiser=denoiser), trial.plain, "prepare_for_sampling differs from the plain denoiser.", 1e-4
    )


@LAWS.law
def moves(trial: Trial) -> str:
    """A deep copy moved to float64 predicts the same, in float64; on the meta device, where plans count, it predicts
    too; every tensor in it moves to another device, and it works on the GPU if there is one.
    """

    def run(denoiser: Denoiser, dtype: torch.dtype, device: str) -> Tensor:
        noisy, steps, context = trial.inputs
        there = None if context is None else context.to(device, dtype)
        inputs = (noisy.to(device, dtype), steps.to(device), there)
        found = trial.predict(trial.condition.to(device, dtype), denoiser, inputs)
        require(found.dtype == dtype, f"Moved to {dtype} on {device}, it predicts {found.dtype}.")
        text = f"Moved to {dtype} on {device}, it predicts otherwise."
        if device == "cpu":
            require_same(found.to(trial.plain.dtype), trial.plain, text, 1e-3)
        return found

    def same(before: Tensor, after: Tensor) -> None:
        require_same(after, before, "Moved to float64 and back, it predicts otherwise.", 1e-5)

    require_other_precision(trial.denoiser, run, same)
    inputs = [None if given is None else given.to("meta") for given in trial.inputs]
    elsewhere("forward", deepcopy(trial.denoiser).to("meta"), *inputs, trial.condition.to("meta"))
    return require_other_device(trial.denoiser, run)


@LAWS.law
def save_and_load(trial: Trial) -> None:
    """One built anew that loads its state dict from a file predicts the same, bit for bit."""
    again = trial.moved(seed=8)
    state = {name: tensor.contiguous() for name, tensor in trial.denoiser.state_dict().items()}
    again.load_state_dict(load(save(state)))
    require_same(trial.predict(denoiser=again), trial.plain, "Loaded from its state dict, the denoiser differs.")
