"""The levels of the U-Net: layers, and the change of resolution after them.

Every layer reads the timestep and the condition as `LayerFeatures`, computed apart from the frames so that they can be
reused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import Tensor, cat, nn

from codecdiff import ConditionTokens
from codecdiff.denoisers import LayerFeatures
from codecdiff_unet.blocks import CrossAttention, LinearAttention, ResidualBlock, SelfAttention


class EncodedCondition(NamedTuple):
    """A condition after nulls, vector network and text layers. One row holds for every row of a batch."""

    vector: Tensor | None  # (b, e)
    sequences: Mapping[str, ConditionTokens]


class Layer(nn.Module):
    """A residual block, then attention of the frames to themselves, or none."""

    def __init__(self, block: ResidualBlock, attention: LinearAttention | SelfAttention | None = None):
        super().__init__()
        self.block = block
        self.attention = attention

    def features(self, time: Tensor, condition: EncodedCondition) -> LayerFeatures:
        """(b, e) time embedding and condition -> what this layer reads of them."""
        to_vector = self.block.vector
        vector = None if to_vector is None or condition.vector is None else to_vector(condition.vector)
        return LayerFeatures(self.block.time(time), vector)

    def forward(self, x: Tensor, features: LayerFeatures) -> Tensor:
        """(b, c, l) -> (b, c', l)."""
        x = self.block(x, features.modulation)
        return x if self.attention is None else x + self.attention(x.mT).mT


class CrossLayer(Layer):
    """A residual block, then attention of the frames to the condition called `source`."""

    def __init__(self, block: ResidualBlock, cross: CrossAttention, source: str):
        super().__init__(block)
        self.cross = cross
        self.source = source

    def features(self, time: Tensor, condition: EncodedCondition) -> LayerFeatures:
        """(b, e) time embedding and condition -> what this layer reads of them."""
        memory = self.cross.keys_and_values(*condition.sequences[self.source])
        return super().features(time, condition)._replace(memory=memory)

    def forward(self, x: Tensor, features: LayerFeatures) -> Tensor:
        """(b, c, l) -> (b, c', l)."""
        x = super().forward(x, features)
        return x + self.cross(x.mT, features.memory).mT


class Level(nn.Module):
    """Layers at one resolution, then `resample`, which leaves it."""

    def __init__(self, layers: Sequence[Layer], resample: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.resample = resample

    def __iter__(self) -> Iterator[Layer]:
        """Go through the layers, first to last."""
        return iter(cast(list[Layer], self.layers))

    def features(self, time: Tensor, condition: EncodedCondition) -> list[LayerFeatures]:
        """Return the features of every layer, in order."""
        return [layer.features(time, condition) for layer in self]


class Down(Level):
    """A level on the way down."""

    def forward(self, x: Tensor, features: Sequence[LayerFeatures]) -> tuple[Tensor, list[Tensor]]:
        """(b, c, l) -> (b, c', l / 2), or (b, c', l) at the last level; and each layer's result, (b, c, l)."""
        skips: list[Tensor] = []
        for layer, own in zip(self, features, strict=True):
            x = layer(x, own)
            skips.append(x)
        return self.resample(x), skips


class Up(Level):
    """A level on the way up: each layer also sees a skip, the newest first."""

    def forward(self, x: Tensor, skips: Sequence[Tensor], features: Sequence[LayerFeatures]) -> Tensor:
        """(b, c', l) frames, (b, c, l) skips -> (b, c, 2l), or (b, c, l) at the last level."""
        for layer, skip, own in zip(self, reversed(skips), features, strict=True):
            x = layer(cat([x, skip], dim=1), own)
        return self.resample(x)


@dataclass(frozen=True)
class Builder:
    """What all layers of one U-Net share. A kind of layer is "none", "linear" or the name of a condition."""

    kinds: tuple[str, ...]  # of the layers of a level
    widths: Mapping[str, int]  # of the available conditions
    embedding: int
    has_vector: bool
    groups: int
    heads: int
    head_dim: int
    linear_heads: int
    linear_head_dim: int

    def block(self, inputs: int, outputs: int) -> ResidualBlock:
        """Build a residual block."""
        return ResidualBlock(inputs, outputs, embedding=self.embedding, has_vector=self.has_vector, groups=self.groups)

    def layer(self, kind: str, inputs: int, outputs: int) -> Layer:
        """Build a layer of this kind; one that names a missing condition has no attention."""
        block = self.block(inputs, outputs)
        if kind == "linear":
            return Layer(block, LinearAttention(outputs, heads=self.linear_heads, head_dim=self.linear_head_dim))
        if kind in self.widths:
            cross = CrossAttention(outputs, self.widths[kind], heads=self.heads, head_dim=self.head_dim)
            return CrossLayer(block, cross, kind)
        return Layer(block)

    def down(self, inputs: int, outputs: int, *, halves: bool) -> Down:
        """Build the level from `inputs` to `outputs` channels, at half the resolution if `halves`."""
        kernel_size, stride = (4, 2) if halves else (3, 1)
        resample = nn.Conv1d(inputs, outputs, kernel_size, stride, padding=1)
        return Down([self.layer(kind, inputs, inputs) for kind in self.kinds], resample)

    def middle(self, width: int, *, attends: bool) -> Down:
        """Build the middle: block, attention if it `attends`, block."""
        attention = SelfAttention(width, heads=self.heads, head_dim=self.head_dim) if attends else None
        return Down([Layer(self.block(width, width), attention), Layer(self.block(width, width))], nn.Identity())

    def up(self, inputs: int, outputs: int, *, doubles: bool) -> Up:
        """Build the mirror of `down(inputs, outputs)`: from `outputs` to `inputs` channels."""
        conv = nn.Conv1d(outputs, inputs, kernel_size=3, padding=1)
        resample = nn.Sequential(nn.Upsample(scale_factor=2), conv) if doubles else conv
        return Up([self.layer(kind, outputs + inputs, outputs) for kind in self.kinds], resample)

    def output(self, width: int, channels: int) -> Up:
        """Build the end, whose only skip is the input of the first level."""
        return Up([Layer(self.block(2 * width, width))], nn.Conv1d(width, channels, kernel_size=1))
