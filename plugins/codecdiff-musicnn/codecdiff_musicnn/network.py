"""The network of musicnn: filters that span timbre or tempo, layers over time, and pooling.

Shapes here: n windows of t = 187 frames, f = 96 mel bands, c channels.

    spectrogram (n, t, f) ─▶ front end (n, c, t) ─▶ mid end (n, c + 192, t) ─▶ maximum and mean over t ─▶ 200 ─▶ 50 tags

The authors' front end has 561 filters. Most died in training: weight decay took their weights to zero, and what they
compute is constant. Only those that are left are here; `convert` moves the constants of the others into the
biases of the layers that read them, and computes of each normalization the scale and shift that it amounts to.

Source: Pons & Serra (2019), musicnn: Pre-trained convolutional neural networks for music audio tagging,
arXiv:1909.06654.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_FRAMES = 187  # of a window
FRONT_KERNELS = ((7, 38), (7, 67), (128, 1), (64, 1), (32, 1))  # frames and bands: two of timbre, three of tempo
MIDEND_CHANNELS, MIDEND_LAYERS, MIDEND_FRAMES = 64, 3, 7
EMBEDDING_WIDTH, NUM_TAGS = 200, 50


class TagOutput(NamedTuple):
    """What the network computes of n windows."""

    embedding: Tensor  # (n, 200) the layer before the last
    tags: Tensor  # (n, 50) probabilities, each of a tag by itself


class ScaleShift(nn.Module):
    """A normalization in evaluation mode: each channel times a factor, plus a term."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, ...) -> the same shape."""
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return x * self.scale.view(shape) + self.shift.view(shape)


class FrontEnd(nn.Module):
    """A convolution over frames and bands, then the strongest response over all bands."""

    def __init__(self, channels: int, frames: int, bands: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, channels, (frames, bands)), ScaleShift(channels)
        self.padding = ((frames - 1) // 2, frames // 2)  # zeros before and after keep the number of frames

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(n, 1, t, f) -> (n, c, t)."""
        padded = functional.pad(spectrogram, (0, 0, *self.padding))
        return self.norm(functional.relu(self.conv(padded))).amax(dim=3)


class MidEnd(nn.Module):
    """A convolution over frames.

    Its bias may differ by frame: what a constant input adds is less at the ends, where zeros surround it.
    """

    def __init__(self, in_channels: int, bias_frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, MIDEND_CHANNELS, MIDEND_FRAMES, padding=MIDEND_FRAMES // 2, bias=False)
        self.bias = nn.Parameter(torch.zeros(MIDEND_CHANNELS, bias_frames))
        self.norm = ScaleShift(MIDEND_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, t) -> (n, 64, t)."""
        return self.norm(functional.relu(self.conv(x) + self.bias))


class MusiCNNNetwork(nn.Module):
    """The whole network, its front end with so many filters of each kernel."""

    def __init__(self, num_filters: Sequence[int]) -> None:
        super().__init__()
        kernels = zip(num_filters, FRONT_KERNELS, strict=True)
        self.input_norm = ScaleShift(1)
        self.front = nn.ModuleList(FrontEnd(channels, *kernel) for channels, kernel in kernels)
        later = (MidEnd(MIDEND_CHANNELS, 1) for _ in range(MIDEND_LAYERS - 1))
        self.midend = nn.ModuleList([MidEnd(sum(num_filters), NUM_FRAMES), *later])
        pooled = 2 * (sum(num_filters) + MIDEND_LAYERS * MIDEND_CHANNELS)
        self.pool_norm, self.embedding_norm = ScaleShift(pooled), ScaleShift(EMBEDDING_WIDTH)
        self.dense, self.output = nn.Linear(pooled, EMBEDDING_WIDTH), nn.Linear(EMBEDDING_WIDTH, NUM_TAGS)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        """Build the network with these weights. Raises RuntimeError if they are not all there, or of another shape."""
        num_filters = [len(state[f"front.{i}.conv.bias"]) for i in range(len(FRONT_KERNELS))]
        with torch.device("meta"):
            network = cls(num_filters)
        network.load_state_dict(state, assign=True)
        return network

    def forward(self, spectrogram: Tensor) -> TagOutput:
        """(n, t, f) log-mel spectrograms -> embeddings and probabilities of tags."""
        normalized = self.input_norm(spectrogram[:, None])
        features = [torch.cat([layer(normalized) for layer in self.front], dim=1)]
        features.append(self.midend[0](features[0]))
        for layer in self.midend[1:]:
            features.append(layer(features[-1]) + features[-1])
        dense = torch.cat(features, dim=1)  # (n, c + 192, t)
        pooled = torch.stack([dense.amax(dim=2), dense.mean(dim=2)], dim=2).flatten(1)  # channel by channel
        embedding = self.embedding_norm(functional.relu(self.dense(self.pool_norm(pooled))))
        return TagOutput(embedding, torch.sigmoid(self.output(embedding)))
