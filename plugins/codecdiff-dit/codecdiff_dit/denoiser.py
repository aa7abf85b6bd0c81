"""A one-dimensional diffusion transformer: Peebles & Xie, "Scalable Diffusion Models with Transformers" (2023).

Frames are tokens. What depends on the timestep and the condition alone is computed first, as features of every layer;
then the tokens run through the blocks. `DiT.prepare_for_sampling` keeps the features of a whole sampling run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
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
from codecdiff_dit.blocks import Block, GatedTextLayer, Modulation, NormalizedCrossAttention, Output, rotation
from codecdiff_dit.sampling import LayerModulations, PreparedBlock, normalize_and_modulate, projection

TIMESTEP_WIDTH = 256  # of the sines and cosines of a timestep


class DiTFeatures(NamedTuple):
    """What the network reads of timesteps and a condition."""

    blocks: Sequence[LayerFeatures]  # of every block, then of the output
    controls: Tensor | None = None  # `control_frames`


class DiT(PrecomputedConditioning):
    """A transformer over frames: timestep and vector enter by adaLN-Zero, other conditions by cross-attention.

    Frames attend to each other by distance (rotary positions), so they may be of any number. The mean of the tokens of
    the condition called `vector`, if there is one, joins the timestep in every block. The tokens of the conditions in
    `attend` are concatenated, and every block attends to them. A condition missing from a call is absent in every row.

    channels, context_channels: of the latents to denoise and of the context before them.
    condition_widths: embedding width of each condition of the conditioner.
    width, depth, heads: of the tokens, the number of blocks, and of heads in each attention.
    expansion: hidden width of the gated networks (SwiGLU: Shazeer, 2020), as a multiple of `width`.
    embedding: width of the timestep's and the vector's embedding; `width` if None.
    vector: of all tokens of a condition, which may also be one of `attend`.
    attend: conditions whose tokens frames attend to; None for all except `vector` and `controls`.
    controls: conditions with a token for every frame, such as [chroma, beats]. A linear map of them, which is zero at
        first, is added to the tokens of the frames.
    text_layers: transformer layers over each condition, before anything else reads it.
    patch: frames that make one token, their channels side by side: attention costs the square of the tokens' number.
    checkpoint: compute each block again in the backward pass instead of keeping its activations.
    """

    _no_split_modules = ("Block",)  # units that accelerate shards, by FSDP
    supports_cuda_graphs = True
    small_options: ClassVar = {"width": 32, "depth": 2, "heads": 4, "controls": ["control"]}

    def __init__(
        self,
        *,
        channels: int,
        context_channels: int = 0,
        condition_widths: Mapping[str, int],
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        expansion: int = 3,
        embedding: int | None = None,
        vector: str | None = "vector",
        attend: tuple[str, ...] | None = None,
        controls: tuple[str, ...] = (),
        text_layers: int = 0,
        patch: int = 1,
        checkpoint: bool = False,
    ):
        super().__init__()
        _check_options(width, depth, heads, expansion, patch)
        check_names([vector or "", *controls], condition_widths)
        self.channels, self.context_channels, self.condition_widths = channels, context_channels, dict(condition_widths)
        self.width, self.heads, self.patch, self.checkpoint = width, heads, patch, checkpoint
        self.vector = vector if vector in condition_widths else None
        self.controls = tuple(name for name in controls if name in condition_widths)
        usual = [name for name in condition_widths if name not in (vector, *controls)]
        attended = usual if attend is None else attend
        self.sources = tuple(name for name in dict.fromkeys(attended) if name in condition_widths)
        _warn_of_names(set(attended), set(self.used_conditions), condition_widths)
        embedding, has_vector = embedding or width, self.vector is not None
        self._add_condition_networks(embedding, text_layers, heads, expansion)
        self.input = nn.Linear((context_channels + channels) * patch, width)
        options = {"heads": heads, "expansion": expansion, "attends": bool(self.sources)}
        blocks = [Block(width, embedding=embedding, has_vector=has_vector, **options) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.output = Output(width, channels * patch, embedding=embedding, has_vector=has_vector)
        self.apply(_initialize)
        nn.init.zeros_(self.output.linear.weight)
        control_width = sum(condition_widths[name] for name in self.controls)
        self.control_input = ControlInput(control_width, [width], patch=patch) if self.controls else None

    def _add_condition_networks(self, embedding: int, num_text_layers: int, heads: int, expansion: int) -> None:
        """Add what reads the timestep and the condition, and the learned nulls."""
        widths = {name: self.condition_widths[name] for name in self.used_conditions}
        self.nulls = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(each)) for name, each in widths.items()})
        widths = {name: widths[name] for name in self.read_conditions}
        self.projections = nn.ModuleDict({name: nn.Linear(each, self.width) for name, each in widths.items()})
        self.text_layers = nn.ModuleDict()
        for name in widths:
            stack = [GatedTextLayer(self.width, heads=heads, expansion=expansion) for _ in range(num_text_layers)]
            self.text_layers[name] = nn.ModuleList(stack)
        self.time_network = embedding_network(TIMESTEP_WIDTH, embedding, nn.SiLU())
        self.vector_network = embedding_network(self.width, embedding, nn.SiLU()) if self.vector else None

    @property
    def read_conditions(self) -> tuple[str, ...]:
        """Names of the conditions whose tokens the network reads wherever they are."""
        return tuple(dict.fromkeys(name for name in (*self.sources, self.vector) if name))

    @property
    def used_conditions(self) -> tuple[str, ...]:
        """Names of all conditions that the network reads."""
        return tuple(dict.fromkeys((*self.read_conditions, *self.controls)))

    def features(self, timestep: Tensor, condition: Condition) -> DiTFeatures:
        """(n,) timesteps, condition -> the features of every block and of the output, and the controls."""
        weight = self.input.weight
        time = self.time_network(get_timestep_embedding(timestep.to(weight.device), TIMESTEP_WIDTH).to(weight.dtype))
        filled = fill_nulls(condition, {name: self.nulls[name] for name in self.read_conditions})
        read = {name: self._read(name, tokens) for name, tokens in filled.items()}
        vector = self.vector_network(mean_token(read[self.vector])) if self.vector and self.vector_network else None
        attended = concatenate([read[name] for name in self.sources]) if self.sources else None
        blocks = [block.features(time, vector, attended) for block in cast(Iterable[Block], self.blocks)]
        controls = {name: self.nulls[name] for name in self.controls}
        of_frames = control_frames(condition, controls) if controls else None
        return DiTFeatures([*blocks, self.output.modulation(time, vector)], of_frames)

    def _read(self, name: str, entry: ConditionTokens) -> ConditionTokens:
        """Project the tokens of a condition to the width of the frames', and apply its text layers."""
        tokens = self.projections[name](entry.tokens)
        for layer in cast(Iterable[GatedTextLayer], self.text_layers[name]):
            tokens = layer(tokens, entry.mask)
        return ConditionTokens(tokens, entry.mask)

    def select_timesteps(self, features: DiTFeatures, index: Tensor) -> DiTFeatures:
        """Select what depends on the timestep at the places `index` (b,) among the timesteps of the features."""
        return features._replace(blocks=[layer._replace(time=layer.time[index]) for layer in features.blocks])

    def denoise(self, noisy: Tensor, context: Tensor | None, features: DiTFeatures) -> Tensor:
        """(b, c, l) noisy latents, (b, c', l) context or None, `features` -> (b, c, l) prediction."""
        x = self.with_controls(self.input(self.patches(noisy, context)), features.controls, noisy.shape[-1])
        turned = rotation(x.shape[1], self.width // self.heads, x.device)
        for block, own in zip(self.blocks, features.blocks[:-1], strict=True):
            x = self._run(block, x, own, turned)
        return self.unpatched(self.output(x, features.blocks[-1]), noisy.shape[-1])

    def with_controls(self, x: Tensor, controls: Tensor | None, frames: int) -> Tensor:
        """(b, n, e) tokens of frames, controls, if any -> (b, n, e)."""
        if self.control_input is None or controls is None:
            return x
        (added,) = self.control_input(controls, frames, self.patch)
        return x + added.mT.to(x.dtype)

    def patches(self, noisy: Tensor, context: Tensor | None) -> Tensor:
        """(b, c, l), (b, c', l) or None -> (b, n, (c' + c) patch): what the network reads, padded with zeros."""
        frames = noisy if context is None else torch.cat([context, noisy], dim=1)
        padded = functional.pad(frames, (0, -frames.shape[-1] % self.patch))
        return rearrange(padded, "b c (n patch) -> b n (c patch)", patch=self.patch)

    def unpatched(self, x: Tensor, frames: int) -> Tensor:
        """(b, n, c patch) -> (b, c, l), cropped to so many frames."""
        return rearrange(x, "b n (c patch) -> b c (n patch)", patch=self.patch)[..., :frames]

    def repeated_layers(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        """Return an equivalent denoiser for these `timesteps` (n,) and this `condition` alone, without gradients.

        It holds what is computed of the weights: prepare again after they or the device change.
        """
        return PreparedDiT(self, timesteps, condition)

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        """Apply a block; when checkpointing, keep its inputs alone for the backward pass."""
        if self.checkpoint and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
        return block(*inputs)


class PreparedDiT(PreparedDenoiser):
    """A transformer for fixed timesteps and a fixed condition.

    It computes in the precision of autocast, if that is on while it is prepared, else in that of the weights.
    """

    denoiser: DiT

    @torch.no_grad()
    def __init__(self, dit: DiT, timesteps: Tensor, condition: Condition):
        device = dit.input.weight.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            super().__init__(dit, timesteps, condition)
            self.dtype = autocast or dit.input.weight.dtype
            self.control_frames = self.features.controls
            self.modulation = LayerModulations(self.features.blocks, dit.width)
            self.input, self.output = projection(dit.input, self.dtype), projection(dit.output.linear, self.dtype)
            pairs = zip(dit.blocks, self.features.blocks[:-1], strict=True)
            self.blocks = [PreparedBlock(cast(Block, block), own.memory, self.dtype) for block, own in pairs]
        self.features = None

    @torch.no_grad()
    def predict(self, noisy: Tensor, context: Tensor | None, index: Tensor) -> Tensor:
        """(b, c, l), (b, c', l) or None, places (b,) among the timesteps -> (b, c, l)."""
        with torch.autocast(noisy.device.type, enabled=False):
            *modulations, last = self.modulation.at(index, self.dtype)
            x = self.input(self.denoiser.patches(noisy, context).to(self.dtype))
            x = self.denoiser.with_controls(x, self.control_frames, noisy.shape[-1])
            for block, modulation in zip(self.blocks, modulations, strict=True):
                block(x, modulation)
            return self.denoiser.unpatched(
                self.output(normalize_and_modulate(x, *last.chunk(2, dim=-1))), noisy.shape[-1]
            )


def concatenate(conditions: Sequence[ConditionTokens]) -> ConditionTokens:
    """Concatenate the tokens of conditions, (b, m, e) each, or of one row for all."""
    rows = max(len(each.mask) for each in conditions)
    tokens = torch.cat([each.tokens.expand(rows, -1, -1) for each in conditions], dim=1)
    return ConditionTokens(tokens, torch.cat([each.mask.expand(rows, -1) for each in conditions], dim=1))


def _initialize(module: nn.Module) -> None:
    """Initialize weights as Peebles & Xie do: Xavier's, and zero where a block is to add nothing."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Modulation | NormalizedCrossAttention):
        last = [module.time, module.vector] if isinstance(module, Modulation) else [module.out]
        for linear in last:
            if linear is not None:
                nn.init.zeros_(linear.weight)


def _check_options(width: int, depth: int, heads: int, expansion: int, patch: int) -> None:
    """Raise a ValueError for options that no transformer can have."""
    for name, number in {"depth": depth, "heads": heads, "expansion": expansion, "patch": patch}.items():
        if number < 1:
            raise InvalidValue(f"Invalid {name} {number}: expected at least 1.")
    if width < 1 or width % (2 * heads):
        raise InvalidValue(
            f"Invalid width {width}: expected a multiple of 2 * `heads` = {2 * heads}, for each head turns pairs of "
            "numbers."
        )


def _warn_of_names(attended: set[str], used: set[str], condition_widths: Mapping[str, int]) -> None:
    """Warn of names of missing conditions, and of conditions that change nothing."""
    if condition_widths and (missing := sorted(attended - set(condition_widths))):
        message = f"No condition is called {' or '.join(missing)}: there are {sorted(condition_widths)}."
        warnings.warn(message, stacklevel=3)
    if unused := sorted(set(condition_widths) - used):
        warnings.warn(f"Nothing uses the conditions {unused}; name them in `attend` or `vector`.", stacklevel=3)
