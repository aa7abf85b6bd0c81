"""The one-dimensional diffusion U-Net of Lanzendörfer, Lu et al., "Coarse-to-Fine Text-to-Music Latent Diffusion".

What depends on the timestep and the condition alone is computed first, as features of every layer; then the frames
run down and up through the levels. `UNet.prepare_for_sampling` keeps the features of a whole sampling run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import torch
from diffusers.models.embeddings import get_timestep_embedding
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from codecdiff import Condition, ConditionTokens, Denoiser
from codecdiff.denoisers import (
    ControlInput,
    LayerFeatures,
    PrecomputedConditioning,
    PreparedDenoiser,
    check_names,
    control_frames,
    embedding_network,
    fill_nulls,
    mean_token,
)
from codecdiff.errors import InvalidValue
from codecdiff_unet.blocks import TextLayer
from codecdiff_unet.levels import Builder, EncodedCondition, Level
from codecdiff_unet.sampling import Convolution, ModulationTable, PreparedLevel


class UNetFeatures(NamedTuple):
    """What the network reads of timesteps and a condition."""

    levels: Sequence[Sequence[LayerFeatures]]  # of every layer of every level, in the order they run
    waves: Sequence[Tensor]  # frequencies, phases and amplitudes of every name, (b, n, 3, m)
    controls: Tensor | None  # `control_frames`


class UNet(PrecomputedConditioning):
    """A U-Net of residual blocks with linear, cross- and self-attention. The defaults are the paper's `large`.

    A level holds one layer per item of `layers`: a residual block, followed by nothing ("none"), linear
    attention ("linear") or cross-attention to the condition of that name. Attention to a missing condition
    is left out, so the defaults also train unconditionally. The means of the conditions called `vector`,
    if there are any, join the time embedding in every block. A condition missing from a call is absent in every row.

    channels, context_channels: of the latents to denoise and of the context before them.
    condition_widths: embedding width of each condition of the conditioner.
    width, multipliers: channels of the first convolution, and of each level's result as multiples of it.
    embedding: width of the timestep's and the vector's embedding; 4 * width if None.
    heads, head_dim: of cross-attention, of the attention in the middle, and of text layers.
    linear_heads, linear_head_dim: of linear attention.
    groups: of every group normalization.
    vector: conditions whose mean token every block reads, as in [text, key]. They may also be among `layers`.
    waves: conditions whose tokens (b, n, 3m) are frequencies in Hz, phases at the first frame in cycles, and amplitudes
        of m waves each. Their sines and cosines at every frame, summed over the tokens, are input beside the latents:
        the waves of a tempo say where the beats are, so that the network need not count.
    frame_rate: frames of the latents in a second, which `waves` need.
    controls: conditions with a token for every frame, such as [chroma, beats]. Linear maps of them, which are zero at
        first, are added to what each level reads on the way down.
    absent_widths: conditions that the architecture has and the conditioner lacks: always their learned null.
    text_layers: transformer layers over each condition of the conditioner, before anything else reads it.
    middle_attention: whether the frames of the lowest resolution attend to each other.
    checkpoint: compute each level again in the backward pass instead of keeping its activations.
    patch: frames that the network treats as one, their channels side by side (Luhman & Luhman, 2022): its receptive
        field is that much longer, at a fraction of the cost.
    """

    _no_split_modules = ("Down", "Up")  # units that accelerate shards, by FSDP
    supports_cuda_graphs = True
    small_options: ClassVar = {
        **{"width": 16, "multipliers": [1, 2], "layers": ["none", "text"], "controls": ["control"]},
        **{"heads": 2, "head_dim": 8, "linear_heads": 2, "linear_head_dim": 8, "groups": 4},
    }

    def __init__(
        self,
        *,
        channels: int,
        context_channels: int = 0,
        condition_widths: Mapping[str, int],
        width: int = 576,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        embedding: int | None = None,
        layers: tuple[str, ...] = ("none", "linear", "linear", "chroma", "text"),
        heads: int = 9,
        head_dim: int = 128,
        linear_heads: int = 9,
        linear_head_dim: int = 32,
        groups: int = 9,
        vector: str | tuple[str, ...] | None = "vector",
        waves: str | tuple[str, ...] | None = None,
        controls: str | tuple[str, ...] | None = None,
        frame_rate: float | None = None,
        absent_widths: Mapping[str, int] | None = None,
        text_layers: int = 0,
        middle_attention: bool = True,
        checkpoint: bool = False,
        patch: int = 1,
    ):
        super().__init__()
        _check_options(width, multipliers, groups, patch, condition_widths, absent_widths or {})
        widths = {**condition_widths, **(absent_widths or {})}
        self.channels, self.context_channels, self.condition_widths = channels, context_channels, dict(condition_widths)
        self.width, self.checkpoint, self.patch = width, checkpoint, patch
        self.multiple, self.frame_rate = patch * 2 ** (len(multipliers) - 1), frame_rate or 0.0  # latent frames, Hz
        self.vectors, self.sources = _names(vector, widths), tuple(n for n in dict.fromkeys(layers) if n in widths)
        self.waves, self.controls = (_names(option, condition_widths) for option in (waves, controls))
        _check_waves({name: condition_widths[name] for name in self.waves}, frame_rate)
        _warn_of_unused(set(condition_widths) - set(self.used_conditions))
        _warn_of_missing(set(layers) - {"none", "linear", *widths}, condition_widths)
        embedding = embedding or 4 * width
        self._add_condition_networks(widths, embedding, text_layers, heads, head_dim)
        sizes = groups, heads, head_dim, linear_heads, linear_head_dim
        self._add_levels(Builder(layers, widths, embedding, bool(self.vectors), *sizes), multipliers, middle_attention)

    def _add_condition_networks(
        self, widths: Mapping[str, int], embedding: int, num_text_layers: int, heads: int, head_dim: int
    ) -> None:
        """Add what reads the timestep and the condition, and the learned nulls."""
        used = self.used_conditions
        self.nulls = nn.ParameterDict({name: nn.Parameter(_null(widths[name])) for name in used})
        self.time_network = embedding_network(self.width, embedding, nn.GELU())
        vector_width = sum(widths[name] for name in self.vectors)
        self.vector_network = embedding_network(vector_width, embedding, nn.GELU()) if self.vectors else None
        self.text_layers = nn.ModuleDict()
        for name in self.read_conditions:
            depth = num_text_layers if name in self.condition_widths else 0
            stack = [TextLayer(widths[name], heads=heads, head_dim=head_dim) for _ in range(depth)]
            self.text_layers[name] = nn.ModuleList(stack)

    def _add_levels(self, build: Builder, multipliers: Sequence[int], middle_attention: bool) -> None:
        """Add what reads the frames."""
        sizes = list(pairwise(self.width * multiplier for multiplier in (1, *multipliers)))
        changes = [True] * (len(sizes) - 1) + [False]  # of resolution, down and up alike
        downs = [build.down(*size, halves=change) for size, change in zip(sizes, changes, strict=True)]
        ups = [build.up(*size, doubles=change) for size, change in zip(reversed(sizes), changes, strict=True)]
        wave_channels = sum(2 * self.condition_widths[name] // 3 for name in self.waves)
        inputs = (self.context_channels + self.channels + wave_channels) * self.patch
        self.input = nn.Conv1d(inputs, self.width, kernel_size=3, padding=1)
        self.downs = nn.ModuleList(downs)
        self.middle = build.middle(sizes[-1][1], attends=middle_attention)
        self.ups = nn.ModuleList(ups)
        self.output = build.output(self.width, self.channels * self.patch)
        control_width = sum(self.condition_widths[name] for name in self.controls)
        levels = [size for size, _ in sizes]
        self.control_input = ControlInput(control_width, levels, patch=self.patch) if self.controls else None

    @property
    def read_conditions(self) -> tuple[str, ...]:
        """Names of the conditions whose tokens the network reads."""
        return tuple(dict.fromkeys((*self.sources, *self.vectors)))

    @property
    def used_conditions(self) -> tuple[str, ...]:
        """Names of all conditions that change the prediction."""
        return tuple(dict.fromkeys((*self.read_conditions, *self.waves, *self.controls)))

    def features(self, timestep: Tensor, condition: Condition) -> UNetFeatures:
        """(n,) timesteps, condition -> the features of every level's layers, in the order of `levels`."""
        weight = self.input.weight
        time = self.time_network(get_timestep_embedding(timestep.to(weight.device), self.width).to(weight.dtype))
        encoded = self.encode_condition(condition)
        levels = [level.features(time, encoded) for level in self.levels]
        controls = {name: self.nulls[name] for name in self.controls}
        return UNetFeatures(levels, self._waves(condition), control_frames(condition, controls) if controls else None)

    def select_timesteps(self, features: UNetFeatures, index: Tensor) -> UNetFeatures:
        """Select what depends on the timestep at the places `index` (b,) among the timesteps of the features."""
        levels = [[layer._replace(time=layer.time[index]) for layer in level] for level in features.levels]
        return features._replace(levels=levels)

    @property
    def levels(self) -> list[Level]:
        """Every level, in the order they run."""
        return cast(list[Level], [*self.downs, self.middle, *self.ups, self.output])

    def encode_condition(self, condition: Condition) -> EncodedCondition:
        """Fill in the learned nulls, then apply the vector network and the text layers."""
        filled = fill_nulls(condition, {name: self.nulls[name] for name in self.read_conditions})
        read = {name: self._read(name, tokens) for name, tokens in filled.items()}
        means = [mean_token(read[name]) for name in self.vectors]
        rows = max((len(mean) for mean in means), default=1)
        means = [mean.expand(rows, -1) for mean in means]
        vector = None if self.vector_network is None else self.vector_network(torch.cat(means, dim=1))
        return EncodedCondition(vector, {name: read[name] for name in self.sources})

    def _waves(self, condition: Condition) -> list[Tensor]:
        """Return the waves of every name, (b, n, 3, m), in float32: a rounded frequency drifts."""
        filled = fill_nulls(condition, {name: self.nulls[name].float() for name in self.waves})
        waves = [(entry.tokens.unflatten(2, (3, -1)), entry.mask) for entry in filled.values()]
        return [torch.cat([wave[:, :, :2], wave[:, :, 2:] * mask[..., None, None]], dim=2) for wave, mask in waves]

    def _read(self, name: str, entry: ConditionTokens) -> ConditionTokens:
        """Apply the text layers of this name."""
        tokens = entry.tokens
        for layer in cast(Iterable[TextLayer], self.text_layers[name]):
            tokens = layer(tokens, entry.mask)
        return ConditionTokens(tokens, entry.mask)

    def denoise(self, noisy: Tensor, context: Tensor | None, features: UNetFeatures) -> Tensor:
        """(b, c, l) noisy latents, (b, c', l) context or None, `features` -> (b, c, l) prediction."""
        remaining = iter(features.levels)
        x = first = self.input(self.patches(noisy, context, features.waves))
        skips: list[list[Tensor]] = []
        controls = self.level_controls(features.controls, noisy.shape[-1])
        for down, control in zip(self.downs, controls, strict=True):
            x, outputs = self._run(down, x if control is None else x + control, next(remaining))
            skips.append(outputs)
        x, _ = self._run(self.middle, x, next(remaining))
        for up in self.ups:
            x = self._run(up, x, skips.pop(), next(remaining))
        x = self._run(self.output, x, [first], next(remaining))
        return self.unpatched(x, noisy.shape[-1])

    def patches(self, noisy: Tensor, context: Tensor | None, waves: Sequence[Tensor]) -> Tensor:
        """(b, c, l), (b, c', l) or None, waves -> what the network reads, (b, channels * patch, n), zero-padded."""
        sinusoids = [self.sinusoids(wave, noisy.shape[-1]).to(noisy.dtype).expand(len(noisy), -1, -1) for wave in waves]
        frames = torch.cat([*([] if context is None else [context]), noisy, *sinusoids], dim=1)
        padded = functional.pad(frames, (0, -frames.shape[-1] % self.multiple))
        return rearrange(padded, "b c (n patch) -> b (c patch) n", patch=self.patch)

    def level_controls(self, controls: Tensor | None, frames: int) -> Sequence[Tensor | None]:
        """Return what controls add to the input of every level on the way down, (b, c, n); None without controls."""
        if self.control_input is None or controls is None:
            return [None] * len(self.downs)
        return self.control_input(controls, frames, self.multiple)

    def sinusoids(self, waves: Tensor, frames: int) -> Tensor:
        """(b, n, 3, m) frequencies in Hz, phases in cycles and amplitudes -> (b, 2m, l), sines and cosines."""
        frequencies, phases, amplitudes = waves[..., None].unbind(2)
        cycles = torch.frac(frequencies / self.frame_rate) * torch.arange(frames, device=waves.device) + phases
        angles = 2 * math.pi * torch.frac(cycles)
        return torch.cat([amplitudes * angles.sin(), amplitudes * angles.cos()], dim=2).sum(1)

    def unpatched(self, x: Tensor, frames: int) -> Tensor:
        """(b, c patch, n) -> (b, c, l), cropped to so many frames."""
        return rearrange(x, "b (c patch) n -> b c (n patch)", patch=self.patch)[..., :frames]

    def repeated_layers(self) -> list[nn.Module]:
        """Return all layers: residual blocks with their attention."""
        return [layer for level in self.levels for layer in level]

    def adapter_modules(self) -> list[str]:
        """Return the names of all linear layers and convolutions: most weights are in convolutions of three frames."""
        return [name for name, module in self.named_modules() if isinstance(module, nn.Linear | nn.Conv1d)]

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        """Return an equivalent denoiser for these `timesteps` (n,) and this `condition` alone, without gradients.

        It holds copies of the weights: prepare again after they or the device change.
        """
        return PreparedUNet(self, timesteps, condition)

    def _run(self, level: nn.Module, *inputs: Any) -> Any:
        """Apply a level; when checkpointing, keep its inputs alone for the backward pass."""
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(level, *inputs, use_reentrant=False)
        return level(*inputs)


class PreparedUNet(PreparedDenoiser):
    """A U-Net for fixed timesteps and a fixed condition.

    It computes in the precision of autocast, if that is on while it is prepared, else in that of the weights. Scales,
    shifts and folded weights are computed in the precision of the weights, and group statistics in float32.
    """

    denoiser: UNet

    @torch.no_grad()
    def __init__(self, unet: UNet, timesteps: Tensor, condition: Condition):
        device = unet.input.weight.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            super().__init__(unet, timesteps, condition)
            self.dtype = autocast or unet.input.weight.dtype
            self.modulation = ModulationTable([layer for level in self.features.levels for layer in level])
            self.input = Convolution(unet.input, self.dtype)
            pairs = zip(unet.levels, self.features.levels, strict=True)
            self.waves, self.control_frames = self.features.waves, self.features.controls
            levels = [PreparedLevel(level, features, self.dtype) for level, features in pairs]
        depth = len(unet.downs)
        self.downs, self.middle = levels[:depth], levels[depth]
        self.ups = levels[depth + 1 :]  # the output is the last up
        self.features = None

    @torch.no_grad()
    def predict(self, noisy: Tensor, context: Tensor | None, index: Tensor) -> Tensor:
        """(b, c, l), (b, c', l) or None, places (b,) among the timesteps -> (b, c, l)."""
        with torch.autocast(noisy.device.type, enabled=False):
            modulations = iter(self.modulation.at(index, self.dtype))
            frames = self.denoiser.patches(noisy, context, self.waves).to(self.dtype)[:, :, None]
            x = self.input(frames.contiguous(memory_format=torch.channels_last))
            skips = [x]
            controls = self.denoiser.level_controls(self.control_frames, noisy.shape[-1])
            for level, control in zip(self.downs, controls, strict=True):
                x = x if control is None else x + control[:, :, None].to(self.dtype)
                for layer in level.layers:
                    x = layer(x, next(modulations))
                    skips.append(x)
                x = level.resample(x)
            for layer in self.middle.layers:
                x = layer(x, next(modulations))
            for level in self.ups:
                for layer in level.layers:
                    x = layer(torch.cat([x, skips.pop()], dim=1), next(modulations))
                x = level.resample(x)
            return self.denoiser.unpatched(x[:, :, 0], noisy.shape[-1])


def _names(option: str | Sequence[str] | None, widths: Mapping[str, int]) -> tuple[str, ...]:
    """Return those names of an option that there are. It may be written as on the command line: `[text, key]`."""
    names = [name.strip() for name in (option.strip("[] ").split(",") if isinstance(option, str) else option or ())]
    check_names(names, widths)
    return tuple(name for name in names if name in widths)


def _null(width: int) -> Tensor:
    """Draw a null (e,). Arithmetic on the meta device would import torch's compiler, for seconds."""
    return (0.02 * torch.randn(width, device="cpu")).to(torch.get_default_device())


def _check_options(
    width: int,
    multipliers: Sequence[int],
    groups: int,
    patch: int,
    condition_widths: Mapping[str, int],
    absent_widths: Mapping[str, int],
) -> None:
    """Raise a ValueError for options that no U-Net can have."""
    if patch < 1:
        raise InvalidValue(f"Invalid patch {patch}: expected a number of frames, at least 1.")
    if width < 4 or width % 2:
        raise InvalidValue(f"Invalid width {width}: expected an even number, at least 4, for sines and cosines.")
    if groups < 1:
        raise InvalidValue(f"Invalid groups {groups}: expected at least 1.")
    if not multipliers:
        raise InvalidValue("Invalid multipliers: expected at least one level.")
    uneven = [width * multiplier for multiplier in (1, *multipliers) if width * multiplier % groups]
    if uneven:
        raise InvalidValue(
            f"Every level's channels must be a multiple of `groups` = {groups}; these are not: {uneven}."
        )
    both = sorted(set(condition_widths) & set(absent_widths))
    if both:
        raise InvalidValue(f"The conditioner has conditions {both}: take them out of `absent_widths`.")


def _check_waves(widths: Mapping[str, int], frame_rate: float | None) -> None:
    """Raise a ValueError for conditions that cannot be waves."""
    if widths and not frame_rate:
        raise InvalidValue(f"The waves {', '.join(widths)} need a `frame_rate`, which follows from the codec.")
    if uneven := {name: width for name, width in widths.items() if width % 3}:
        raise InvalidValue(
            f"Invalid waves {uneven}: the width must be a multiple of 3, for frequencies, phases and amplitudes."
        )


def _warn_of_missing(names: set[str], condition_widths: Mapping[str, int]) -> None:
    """Warn of layers that attend to nothing, where there are conditions to attend to."""
    if names and condition_widths:
        message = (
            f"No condition is called {' or '.join(sorted(names))}: there are {sorted(condition_widths)}. "
            "`absent_widths` names those that the conditioner lacks."
        )
        warnings.warn(message, stacklevel=3)


def _warn_of_unused(names: set[str]) -> None:
    """Warn of conditions that change nothing: a misspelled layer looks like this."""
    if names:
        warnings.warn(
            f"No layer uses the conditions {sorted(names)}; name them in `layers`, `vector`, `waves` or `controls`.",
            stacklevel=3,
        )
