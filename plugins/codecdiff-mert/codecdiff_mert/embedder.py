"""MERT as an embedder of codecdiff, on transformers' HuBERT: no code of the checkpoint is run."""

from typing import Any, Self

import torch
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor

from codecdiff import device_of
from codecdiff.embedders import Windowed
from codecdiff.huggingface import commit_of, not_found, require_complete
from codecdiff_mert.shapes import Network, features_of, network_of, shape_of


class MERT(Windowed):
    """The hidden states of one layer of a music model, averaged over each window.

    MERT's checkpoints bring code of their own, which is not run: its released models are HuBERT networks with other
    weights, and are read as such. A model that uses what HuBERT lacks (spectral features, deep norm) is refused.
    Models that transformers itself knows as HuBERT or Data2Vec audio, such as `m-a-p/music2vec-v1`, are read too.

    Windows follow each other and are heard alone; what is left behind the last whole one is not heard.

    Args:
        model: A Hugging Face id (`m-a-p/MERT-v1-95M`, `m-a-p/MERT-v1-330M`, `m-a-p/music2vec-v1`) or a local folder
            that holds `config.json`, `preprocessor_config.json` and weights (`model.safetensors`, or
            `pytorch_model.bin`, of which tensors alone are read).
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.
        layer: Whose states: 0 what the first layer reads, 1 the first layer, ..., -1 the last.
        window_seconds: Of audio that is heard at once; MERT was trained on 5 s.

    Raises:
        LookupError: There is no such model.
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
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        self._take(_load(model, revision), features_of(model, revision, online=True), layer, window_seconds)

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the facts of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(MERT, part).__init__()
        told = part.arguments
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            shape = shape_of(told["model"], told["revision"])
            network = network_of(shape)(shape)
        part._take(network, features_of(told["model"], told["revision"]), told["layer"], told["window_seconds"])
        return part

    def _take(self, network: Network, extractor: Wav2Vec2FeatureExtractor, layer: int, window_seconds: float) -> None:
        """Take on a network, frozen, with its facts, once the layer and the window are known to be right."""
        shape = network.config
        layers, receptive = shape.num_hidden_layers, _receptive_field(shape.conv_kernel, shape.conv_stride)
        if not -layers - 1 <= layer <= layers:
            raise ValueError(f"This model has layers 0 to {layers}, or -{layers + 1} to -1, but layer={layer}.")
        if window_seconds * extractor.sampling_rate < receptive:
            least = receptive / extractor.sampling_rate
            raise ValueError(f"This model hears at least {least:g} s at once, but window_seconds={window_seconds}.")
        self.network, self.extractor, self.layer = network.float(), extractor, layer
        self.sample_rate, self.width = extractor.sampling_rate, shape.hidden_size
        self.window_seconds = self.hop_seconds = round(window_seconds * self.sample_rate) / self.sample_rate
        self.requires_grad_(False)
        self.train(False)

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows -> (n, e) means over time of one layer's states."""
        heard = self.extractor(list(windows.cpu().numpy()), sampling_rate=self.sample_rate, return_tensors="pt")
        values = heard["input_values"].to(device_of(self), torch.float32)
        with torch.random.fork_rng(devices=[]):  # layers draw whether to drop themselves, in evaluation too
            states = self.network(values, output_hidden_states=True).hidden_states
        return states[self.layer].mean(1)


def _receptive_field(kernels: Any, strides: Any) -> int:
    """Samples under one frame of a stack of convolutions."""
    samples = 1
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples


def _load(model: str, revision: str | None) -> Network:
    """Load the network as the kind that its configuration names."""
    shape = shape_of(model, revision, online=True)
    try:
        with torch.random.fork_rng(devices=[]):  # one parameter is drawn before it is read
            loaded: Any = network_of(shape).from_pretrained(
                model, config=shape, revision=revision or "main", output_loading_info=True
            )
    except OSError as error:
        files = "config.json and model.safetensors or pytorch_model.bin"
        raise not_found("weights of the model", model, revision, files, error) from error
    network, report = loaded
    training_alone = {"masked_spec_embed"}
    require_complete(type(network).__name__, model, set(report["missing_keys"]) - training_alone)
    return network
