"""The checks of denoisers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.errors import ConfigError
from codecdiff.interfaces import Condition, ConditionTokens, Denoiser
from codecdiff.testing import assertions
from codecdiff.testing.assertions import (
    Call,
    assert_other_device,
    assert_other_precision,
    assert_same,
    assert_that,
    call_on_meta,
    white_noise,
)
from codecdiff.testing.checks import CheckFailed, Checks, NotApplicable, PartChecks, Result
from codecdiff.testing.runner import CheckRequest, CheckRun

Inputs = tuple[Tensor, Tensor, Tensor | None]  # noisy latents, timesteps, context
# Conditions that a denoiser may read; the first with which it can be built are used
WIDTHS: tuple[dict[str, int], ...] = (
    {"text": 16, "vector": 16, "control": 16},
    {"text": 16, "vector": 16},
    {"text": 16},
    {"vector": 16},
    {},
)
LEARNED = 0.5  # of the loss of the zero predictor, below which a batch counts as learned
STEPS = 80  # of AdamW at most
LONG = 5003  # latent frames, about a minute
LENGTHS = (1, 7, 16, 33)  # latent frames


@dataclass
class DenoiserCase:
    """A function that builds a denoiser, the sizes it is built for, and its inputs."""

    make: Callable[..., Denoiser]
    widths: Mapping[str, int]
    channels: int = 4
    context_channels: int = 3
    lengths: Sequence[int] = LENGTHS
    label: str = ""

    def build(self, seed: int = 0, **others: Any) -> Denoiser:
        """Build one as it comes from its constructor, with a fixed seed; `others` replace the usual arguments."""
        usual = {"channels": self.channels, "context_channels": self.context_channels}
        with _seeded(seed):  # its weights are drawn
            return self.make(**{**usual, "condition_widths": dict(self.widths), **others}).eval()

    def perturbed(self, seed: int = 7, **others: Any) -> Denoiser:
        """Build one and move its weights a little, so that a layer that starts at zero cannot hide anything."""
        denoiser = self.build(seed, **others)
        with torch.no_grad():
            for number, parameter in enumerate(denoiser.parameters()):
                parameter.add_(0.1 * white_noise(*parameter.shape, seed=seed + 1000 * number))
        return denoiser

    @cached_property
    def part(self) -> Denoiser:
        """The denoiser that most checks use."""
        return self.perturbed()

    @cached_property
    def condition(self) -> Condition:
        """A condition of three rows: whole, half and absent."""
        return example_condition(self.widths)

    @cached_property
    def inputs(self) -> Inputs:
        """Three rows of the longest length."""
        return self.inputs_of(max(self.lengths))

    def inputs_of(self, frames: int) -> Inputs:
        """Three rows of noise, of this many latent frames."""
        context = white_noise(3, self.context_channels, frames, seed=1) if self.context_channels else None
        return white_noise(3, self.channels, frames), torch.tensor([3, 40, 90]), context

    def calls(self) -> Iterator[Call]:
        """Yield `forward` with fresh inputs, without gradients."""
        arguments = (*self.inputs_of(max(self.lengths)), example_condition(self.widths))
        yield Call("forward", torch.no_grad()(self.part), arguments)

    @cached_property
    def plain(self) -> Tensor:
        """The prediction from the usual inputs."""
        return self.predict()

    @torch.no_grad()
    def predict(
        self, condition: Condition | None = None, denoiser: Denoiser | None = None, inputs: Inputs | None = None
    ) -> Tensor:
        """Predict from these, or from the usual denoiser, condition and inputs."""
        condition = self.condition if condition is None else condition  # an empty one is false
        return (denoiser or self.part)(*(inputs or self.inputs), condition)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def example_condition(widths: Mapping[str, int], tokens: int = 5) -> Condition:
    """Return a condition of three rows: all tokens real, two of them, and none."""
    mask = torch.arange(tokens) < torch.tensor([[tokens], [2], [0]])
    return Condition({name: ConditionTokens(white_noise(3, tokens, e, seed=e), mask) for name, e in widths.items()})


CHECKS: Checks[DenoiserCase] = Checks("denoisers")


def check_denoiser(
    make: Callable[..., Denoiser],
    *,
    widths: Mapping[str, int] | None = None,
    channels: int = 4,
    context_channels: int = 3,
    lengths: Sequence[int] = LENGTHS,
) -> list[Result]:
    """Run every check of a denoiser.

    `make(channels=, context_channels=, condition_widths=)` builds a small one; its weights are moved a little, so
    that a layer that starts at zero cannot hide anything. `widths` are those of the conditions it can read.

    Raises AssertionError that lists the checks it fails.
    """
    case = DenoiserCase(make, {"text": 6} if widths is None else widths, channels, context_channels, lengths)
    return CHECKS.assert_all(case.build(), case)


def run_checks(request: CheckRequest) -> CheckRun:
    """Build a denoiser with conditions that it reads, with and without context, and run its checks."""
    make, widths = find_widths(request)
    case = DenoiserCase(make, widths, label="with context" if widths else "")
    read = {name: width for name, width in widths.items() if reads(case, name)}
    cases = [
        DenoiserCase(make, read, label="with context"),
        DenoiserCase(make, read, context_channels=0, label="without context"),
    ]
    denoiser = cases[0].build()
    size = sum(parameter.numel() for parameter in denoiser.parameters())
    notes = [
        f"{size:,} parameters{': smaller ones, by --set, are checked sooner' if size > 10**7 else ''}",
        f"of {', '.join(WIDTHS[0])} it reads: {', '.join(read) or 'none'}",
    ]
    return CheckRun(denoiser, notes, CHECKS.run(denoiser, *cases))


def find_widths(request: CheckRequest) -> tuple[Callable[..., Denoiser], dict[str, int]]:
    """Return the function that builds a denoiser, and the first of `WIDTHS` with which it can be built.

    Raises what the last attempt raised if there are none.
    """

    def make(**derived: Any) -> Denoiser:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of conditions it does not read, which the notes list
            return request.build(**derived)

    for widths in WIDTHS[:-1]:
        try:
            make(channels=4, context_channels=3, condition_widths=widths)
        except ConfigError:
            raise
        except ValueError:
            continue
        return make, widths
    make(channels=4, context_channels=3, condition_widths=WIDTHS[-1])
    return make, WIDTHS[-1]


def reads(case: DenoiserCase, name: str) -> bool:
    """Return whether a condition changes the prediction; the checks report a denoiser that fails."""
    try:
        return not ignores(case, name)
    except Exception:  # third-party code may fail in any way
        return True


@CHECKS.check
def check_facts(case: DenoiserCase) -> None:
    """Its channels, context_channels and condition_widths are those it was built for."""
    sizes = case.channels, case.context_channels, dict(case.widths)
    denoiser = case.part
    facts = denoiser.channels, denoiser.context_channels, dict(denoiser.condition_widths)
    assert_that(facts == sizes, f"Built for channels, context_channels and condition_widths {sizes}, it has {facts}.")


@CHECKS.check
def check_lengths(case: DenoiserCase) -> None:
    """For any number of frames, 1, odd ones and those of a minute too, the prediction has the same shape, and is finite
    and not zero.
    """
    for frames in case.lengths:
        prediction = case.predict(inputs=case.inputs_of(frames))
        shape = (3, case.channels, frames)
        assert_that(prediction.shape == shape, f"{frames} frames become {tuple(prediction.shape)}, not {shape}.")
        valid = prediction.isfinite().all() and prediction.abs().max() > 0
        assert_that(valid, f"The prediction of {frames} frames is zero or not finite.")
    noisy, steps, context = case.inputs_of(LONG)
    one = noisy[:1], steps[:1], None if context is None else context[:1]
    shape, expected = tuple(case.predict(case.condition.rows([0]), inputs=one).shape), tuple(noisy[:1].shape)
    assert_that(shape == expected, f"{LONG} frames become {shape}, not {expected}.")


for shared in (
    assertions.check_deterministic,
    assertions.check_no_global_randomness,
    assertions.check_inputs_untouched,
):
    CHECKS.check(shared)


@CHECKS.check
def check_neighbors(case: DenoiserCase) -> None:
    """The prediction of a row does not depend on the rows beside it, nor does it in training."""
    noisy, steps, context = case.inputs
    for row in range(3):
        one = slice(row, row + 1)
        inputs = (noisy[one], steps[one], None if context is None else context[one])
        alone = case.predict(case.condition.rows(one), inputs=inputs)
        assert_same(alone, case.plain[one], f"Row {row} depends on its neighbors.", 1e-4)
    norms = [name for name, m in case.part.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert_that(not norms, f"In training, {', '.join(norms)} normalizes a row by its neighbors: GroupNorm does not.")


@CHECKS.check
def check_masked_tokens(case: DenoiserCase) -> None:
    """What masked tokens hold, and how many of them there are, changes nothing."""
    garbage = case.condition.map(lambda _, e: (torch.where(e.mask[..., None], e.tokens, 100 + e.tokens), e.mask))
    assert_same(case.predict(garbage), case.plain, "Masked tokens change the prediction.", 1e-4)
    longer = Condition.cat([case.condition, example_condition(case.widths, tokens=9)]).rows(slice(3))
    assert_same(case.predict(longer), case.plain, "Padding the tokens changes the prediction.", 1e-4)


@CHECKS.check
def check_dropped_condition(case: DenoiserCase) -> None:
    """A dropped condition equals an absent one: the learned null of its name replaces it."""
    for name, entry in case.condition.items():
        absent = ConditionTokens(torch.zeros_like(entry.tokens[:, :1]), torch.zeros_like(entry.mask[:, :1]))
        none = Condition({**case.condition, name: absent})
        dropped = case.condition.drop(torch.ones(3, dtype=torch.bool), name)
        text = f"'{name}' dropped is not the learned null of '{name}'."
        assert_same(case.predict(dropped), case.predict(none), text, 1e-4)


@CHECKS.check
def check_reads_conditions(case: DenoiserCase) -> None:
    """Every condition in `condition_widths` changes the prediction."""
    for name in case.widths:
        assert_that(not ignores(case, name), f"'{name}' changes nothing.")


def ignores(case: DenoiserCase, name: str) -> bool:
    """Return whether the prediction is the same without the condition of this name."""
    dropped = case.condition.drop(torch.ones(3, dtype=torch.bool), name)
    return torch.allclose(case.predict(dropped), case.plain, atol=1e-5)


@CHECKS.check
def check_controls(case: DenoiserCase) -> None:
    """Controls, the names in `controls`, are read frame by frame: compared with the null in its place, the token of a
    frame changes the prediction there; tokens in another order have another prediction, and those after the last change
    nothing.
    """
    if not case.part.controls:
        raise NotApplicable("it reads no controls")
    last = max(case.lengths) - 1

    def predict(name: str, tokens: Tensor, hidden: int = -1) -> Tensor:
        mask = (torch.arange(tokens.shape[1]) != hidden).expand(3, -1)
        return case.predict(Condition({**case.condition, name: ConditionTokens(tokens, mask)}))

    for name in case.part.controls:
        longer = white_noise(3, last + 10, case.widths[name], seed=3)
        tokens = longer[:, : last + 1]
        plain = predict(name, tokens)
        assert_same(predict(name, longer), plain, f"Tokens of '{name}' after the last frame change something.", 1e-4)
        different = not torch.allclose(predict(name, tokens.flip(1)), plain, atol=1e-5)
        assert_that(different, f"Tokens of '{name}' in another order have the same prediction.")
        for frame in sorted({0, last // 2, last}):
            change = (predict(name, tokens, hidden=frame) - plain)[..., frame].abs().max()
            assert_that(change > 1e-6, f"The token of '{name}' at frame {frame} changes nothing there.")


@CHECKS.check
def check_reads_inputs(case: DenoiserCase) -> None:
    """Noisy latents, timestep and, where there are context channels, context change the prediction."""
    noisy, steps, context = case.inputs
    others: dict[str, Inputs] = {
        "noisy latents": (noisy + white_noise(*noisy.shape, seed=5), steps, context),
        "timestep": (noisy, steps + 7, context),
    }
    if context is not None:
        others["context"] = (noisy, steps, context + white_noise(*context.shape, seed=6))
    unread = [name for name, i in others.items() if torch.allclose(case.predict(inputs=i), case.plain, atol=1e-5)]
    assert_that(not unread, f"The {' and the '.join(unread)} changes nothing.")


@CHECKS.check
def check_fractional_steps(case: DenoiserCase) -> None:
    """Timesteps may be fractional, as samplers use those between two of training: a whole one as a float has the
    prediction of the integer.
    """
    noisy, steps, context = case.inputs
    text = "Timesteps as floats have other predictions than as integers."
    assert_same(case.predict(inputs=(noisy, steps.float(), context)), case.plain, text, 1e-4)
    between = case.predict(inputs=(noisy, steps + 0.5, context))
    assert_that(between.isfinite().all(), "Between two timesteps, the prediction is not finite.")


@CHECKS.check
def check_no_condition(case: DenoiserCase) -> None:
    """Built without conditions it works with an empty one, or raises ValueError when it is built."""
    try:
        denoiser = case.perturbed(condition_widths={})
    except ValueError as error:
        raise NotApplicable(f"it refuses: {error}") from error
    alone = case.predict(Condition({}), denoiser)
    valid = alone.shape == case.inputs[0].shape and alone.isfinite().all()
    assert_that(valid, "Without conditions the prediction is of another shape, or not finite.")


@CHECKS.check
def check_no_context(case: DenoiserCase) -> None:
    """Built with context_channels=0 it works with None for a context, and with another one it raises ValueError or does
    not read it.
    """
    denoiser = case.perturbed(context_channels=0)
    noisy, steps, _ = case.inputs
    alone = case.predict(denoiser=denoiser, inputs=(noisy, steps, None))
    assert_that(alone.shape == noisy.shape, f"Without context the prediction is {tuple(alone.shape)}.")
    try:
        beside = case.predict(denoiser=denoiser, inputs=(noisy, steps, white_noise(3, 3, noisy.shape[-1], seed=1)))
    except ValueError:
        return
    assert_same(beside, alone, "Built without context, it reads one.")


@CHECKS.check
def check_gradients(case: DenoiserCase) -> None:
    """A gradient reaches every parameter, the learned nulls too."""
    assert_gradients(case, case.perturbed())


def assert_gradients(case: DenoiserCase, denoiser: Denoiser) -> None:
    """Raise CheckFailed unless a gradient reaches every parameter that requires one."""
    denoiser(*case.inputs, case.condition).square().sum().backward()
    learning = [(name, p) for name, p in denoiser.named_parameters() if p.requires_grad]
    silent = [name for name, p in learning if p.grad is None or not p.grad.abs().max() > 0]
    assert_that(
        not silent, f"No gradient reaches {silent}. Make what does not learn a buffer, and remove what is not used."
    )


@CHECKS.check
def check_overfits(case: DenoiserCase) -> str:
    """From the weights of its constructor, some dozen steps of AdamW on one small batch halve the loss of the zero
    predictor.
    """
    denoiser, inputs = case.build().train(), case.inputs_of(8)
    target, losses = white_noise(3, case.channels, 8, seed=9), []
    baseline = target.square().mean().item()
    with _seeded(0):
        optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(STEPS):
            loss = functional.mse_loss(denoiser(*inputs, case.condition), target)
            losses.append(loss.item())
            if losses[-1] < LEARNED * baseline:
                return f"in {len(losses) - 1} steps"
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    raise CheckFailed(
        f"{STEPS} steps on one batch bring the loss to {min(losses):.3g}; that of the zero predictor is {baseline:.3g}."
    )


@CHECKS.check
def check_prepare_for_sampling(case: DenoiserCase) -> None:
    """`prepare_for_sampling` returns an equal denoiser for the same timesteps and condition."""
    with torch.no_grad():
        denoiser = case.part.prepare_for_sampling(case.inputs[1], case.condition)
    if denoiser is case.part:
        raise NotApplicable("prepare_for_sampling returns the denoiser itself")
    assert_same(
        case.predict(denoiser=denoiser), case.plain, "prepare_for_sampling differs from the plain denoiser.", 1e-4
    )


@CHECKS.check
def check_adapters(case: DenoiserCase) -> None:
    """LoRA and DoRA layers on the modules of `adapter_modules` change nothing at first; moved, they change the
    prediction, a gradient reaches all of them, and what they change can be added to the weights instead.
    """
    from codecdiff.denoisers.adapted import AdaptedDenoiser, AdapterConfig

    if find_spec("peft") is None:
        raise NotApplicable("peft is not installed: pip install peft")
    kinds: tuple[Literal["lora", "dora"], ...] = ("lora", "dora")
    for kind in kinds:
        adapted = AdaptedDenoiser(deepcopy(case.part), AdapterConfig(type=kind, rank=2)).eval()
        assert_same(case.predict(denoiser=adapted), case.plain, f"A new {kind} layer changes the prediction.", 1e-5)
        state = adapted.state_dict().items()
        adapted.load_state_dict({n: t + 0.1 * white_noise(*t.shape, seed=i) for i, (n, t) in enumerate(state)})
        assert_gradients(case, adapted)
        prediction, merged = case.predict(denoiser=adapted), deepcopy(case.part)
        weights = merged.state_dict()
        for name, change in adapted.weight_changes().items():
            weights[name].add_(change)
        text = f"Added to the weights, a {kind} adapter changes the prediction in another way than as layers."
        assert_same(case.predict(denoiser=merged), prediction, text, 1e-5)
        assert_that(not torch.allclose(prediction, case.plain, atol=1e-5), f"A {kind} adapter changes nothing.")


@CHECKS.check
def check_moves(case: DenoiserCase) -> str:
    """A deep copy moved to float64 predicts the same, in float64; on the meta device, as for --plan, it predicts
    too; every tensor in it moves to another device, and it works on the GPU if there is one.
    """

    def run(denoiser: Denoiser, dtype: torch.dtype, device: str) -> Tensor:
        noisy, steps, context = case.inputs
        moved = None if context is None else context.to(device, dtype)
        inputs = (noisy.to(device, dtype), steps.to(device), moved)
        prediction = case.predict(case.condition.to(device, dtype), denoiser, inputs)
        assert_that(prediction.dtype == dtype, f"Moved to {dtype} on {device}, it predicts {prediction.dtype}.")
        text = f"Moved to {dtype} on {device}, it predicts differently."
        if device == "cpu":
            assert_same(prediction.to(case.plain.dtype), case.plain, text, 1e-3)
        return prediction

    def same(before: Tensor, after: Tensor) -> None:
        assert_same(after, before, "Moved to float64 and back, it predicts differently.", 1e-5)

    assert_other_precision(case.part, run, same)
    inputs = [None if tensor is None else tensor.to("meta") for tensor in case.inputs]
    call_on_meta("forward", deepcopy(case.part).to("meta"), *inputs, case.condition.to("meta"))
    return assert_other_device(case.part, run)


@CHECKS.check
def check_save_and_load(case: DenoiserCase) -> None:
    """Rebuilt, with its state dict from a file, it predicts the same, bit for bit."""
    again = case.perturbed(seed=8)
    state = {name: tensor.contiguous() for name, tensor in case.part.state_dict().items()}
    again.load_state_dict(load(save(state)))
    assert_same(case.predict(denoiser=again), case.plain, "Loaded from its state dict, the denoiser differs.")


class DenoiserChecks(PartChecks, checks=CHECKS, case=DenoiserCase):
    """The checks of a denoiser as a pytest class: subclass it, and define `make`."""

    widths: Mapping[str, int] = {"text": 6}  # of the conditions it can read
    channels, context_channels = 4, 3
    lengths: Sequence[int] = LENGTHS

    def make(self, *, channels: int, context_channels: int, condition_widths: Mapping[str, int]) -> Denoiser:
        """Build a small one."""
        raise NotImplementedError

    def case(self) -> DenoiserCase:
        """Return the function that builds it, with sizes."""
        return DenoiserCase(self.make, self.widths, self.channels, self.context_channels, self.lengths)
