"""VGGish as an embedder of codecdiff, on torchvggish: its network and its spectrograms."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvggish.vggish_input import waveform_to_examples

from codecdiff import device_of
from codecdiff.embedders import Windowed
from codecdiff.errors import InvalidValue
from codecdiff.huggingface import PretrainedPart, is_building_skeleton
from codecdiff_vggish.config import empty_network
from codecdiff_vggish.weights import read_weights


class VGGish(PretrainedPart, Windowed):
    """128 numbers for every 0.96 s of audio at 16 kHz: the embeddings of the Fréchet audio distance.

    A window of 0.96 s starts every 0.96 s; its last spectral frame reaches 15 ms further, so 0.975 s of audio are
    needed for one, and what remains at the end of a clip is not embedded. Neither principal components nor quantization
    are applied to the network's output.

    Args:
        weights: The file `vggish-10086976.pth` that torchvggish publishes, read for its tensors alone; if None it is
            downloaded once into torch's cache, its checksum compared.
        activation: Return the embeddings after the network's last rectifier, which sets all below zero to zero. The
            Fréchet audio distance is taken before it.

    Raises:
        LookupError: The file does not exist, and it cannot be downloaded.
        ValueError: The file does not contain the weights of VGGish.

    Source: Hershey et al. (2017), CNN Architectures for Large-Scale Audio Classification, arXiv:1609.09430; Kilgour et
    al. (2019), Fréchet Audio Distance, arXiv:1812.08466.

    """

    sample_rate = 16_000
    window_seconds = 0.975
    hop_seconds = 0.96
    width = 128

    small_options: ClassVar = {"weights": "{tiny}/weights.pth"}
    path_options: ClassVar = {"weights": "read"}

    def __init__(self, *, weights: Path | str | None = None, activation: bool = False) -> None:
        super().__init__()
        self.network: Any = empty_network()
        if not activation:
            self.network.embeddings = self.network.embeddings[:-1]
        if not is_building_skeleton():
            self._load(weights)
        self.requires_grad_(False)
        self.train(False)

    def _load(self, weights: Path | str | None) -> None:
        state = read_weights(weights)
        try:
            self.network.load_state_dict(state, assign=True)
        except RuntimeError as error:
            cause = str(error).splitlines()[1].strip()
            raise InvalidValue(f"'{weights}' does not contain the weights of torchvggish's VGGish: {cause}") from error

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows of 0.975 s -> (n, 128)."""
        examples = [waveform_to_examples(row, self.sample_rate) for row in windows.cpu().numpy()]
        spectrograms = torch.cat([torch.as_tensor(example) for example in examples]).detach()  # (n, 1, 96, 64)
        return self.network(spectrograms.to(device_of(self), torch.float32))
