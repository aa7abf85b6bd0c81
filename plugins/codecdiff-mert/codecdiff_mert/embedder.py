"""MERT as an embedder of codecdiff, on transformers' HuBERT: no code of the checkpoint is run."""

from typing import Any

import torch
from torch import Tensor

from codecdiff import device_of
from codecdiff.embedders import Windowed
from codecdiff.errors import InvalidValue
from codecdiff.huggingface import PretrainedPart
from codecdiff_mert.config import load_music_extractor, load_network


class MERT(PretrainedPart, Windowed):
    """The hidden states of one layer of a music model, averaged over each window.

    MERT's checkpoints bring code of their own, which is not run: its released models are HuBERT networks with other
    weights, and are read as such. A model that uses what HuBERT lacks (spectral features, deep norm) is refused.
    Models that transformers itself knows as HuBERT or Data2Vec audio, such as `m-a-p/music2vec-v1`, are read too.

    Windows follow each other and are embedded alone; audio after the last whole one is not embedded.

    Args:
        model: A Hugging Face id (`m-a-p/MERT-v1-95M`, `m-a-p/MERT-v1-330M`, `m-a-p/music2vec-v1`) or a local folder
            that contains `config.json`, `preprocessor_config.json` and weights (`model.safetensors`, or
            `pytorch_model.bin`, read for its tensors alone).
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        layer: Whose states: 0 the input of the first layer, 1 the first layer, ..., -1 the last.
        window_seconds: Of audio that is embedded at once; MERT was trained on 5 s.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete model of these kinds, or it has no such layer, or the window is short.

    Source: Li et al. (2023), MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised Training,
    arXiv:2306.00107; Li et al. (2022), MAP-Music2Vec, arXiv:2212.02508.

    """

    windows_at_once = 8

    def __init__(
        self,
        model: str = "m-a-p/MERT-v1-95M",
        *,
        revision: str | None = None,
        layer: int = -1,
        window_seconds: float = 5.0,
    ) -> None:
        super().__init__()
        revision = self.pin_revision(model, revision)
        self.network, self.extractor = load_network(model, revision), load_music_extractor(model, revision)
        self.sample_rate = self.extractor.sampling_rate
        config = self.network.config
        receptive_field = receptive_field_of(config.conv_kernel, config.conv_stride)
        if not -config.num_hidden_layers - 1 <= layer <= config.num_hidden_layers:
            most = config.num_hidden_layers
            raise InvalidValue(f"This model has layers 0 to {most}, or -{most + 1} to -1, but layer={layer}.")
        if window_seconds * self.sample_rate < receptive_field:
            least = receptive_field / self.sample_rate
            raise InvalidValue(f"This model needs at least {least:g} s at once, but window_seconds={window_seconds}.")
        self.layer, self.width = layer, config.hidden_size
        self.window_seconds = self.hop_seconds = round(window_seconds * self.sample_rate) / self.sample_rate
        self.requires_grad_(False)
        self.train(False)

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows -> (n, e) means over time of one layer's states."""
        inputs = self.extractor(list(windows.cpu().numpy()), sampling_rate=self.sample_rate, return_tensors="pt")
        values = inputs["input_values"].to(device_of(self), torch.float32)
        with torch.random.fork_rng(devices=[]):  # layers draw whether to drop themselves, in evaluation too
            states = self.network(values, output_hidden_states=True).hidden_states
        return states[self.layer].mean(1)


def receptive_field_of(kernels: Any, strides: Any) -> int:
    """Return the samples under one frame of a stack of convolutions."""
    samples = 1
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples
