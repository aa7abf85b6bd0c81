"""VGGish as an embedder of codecdiff, on torchvggish: its network and its spectrograms."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torchvggish.torchvggish import VGG, make_layers
from torchvggish.vggish_input import waveform_to_examples

from codecdiff import device_of
from codecdiff.embedders import Windowed
from codecdiff_vggish.weights import read_weights


class VGGish(Windowed):
    """128 numbers for every 0.96 s of audio at 16 kHz: the embeddings of the Fréchet audio distance.

    A window of 0.96 s starts every 0.96 s; its last spectral frame reaches 15 ms further, so 0.975 s of audio are
    needed for one, and what is left at the end of a clip is not heard. Neither principal components nor quantisation
    is applied to what the network gives.

    Args:
        weights: The file `vggish-10086976.pth` that torchvggish publishes, read for its tensors alone; if None it is
            fetched once into torch's cache, its checksum compared.
        activation: Give the embeddings after the network's last rectifier, which sets all below zero to zero. The
            Fréchet audio distance is taken before it.

    Raises:
        LookupError: There is no such file, and it cannot be fetched.
        ValueError: The file does not hold the weights of VGGish.

    Source: Hershey et al. (2017), CNN Architectures for Large-Scale Audio Classification, arXiv:1609.09430; Kilgour et
    al. (2019), Fréchet Audio Distance, arXiv:1812.08466.

    """

    sample_rate = 16_000
    window_seconds = 0.975
    hop_seconds = 0.96
    width = 128

    def __init__(self, *, weights: Path | str | None = None, activation: bool = False) -> None:
        super().__init__()
        state = read_weights(weights)
        self._take(activation)
        try:
            self.network.load_state_dict(state, assign=True)
        except RuntimeError as error:
            fault = str(error).splitlines()[1].strip()
            raise ValueError(f"'{weights}' does not hold the weights of torchvggish's VGGish: {fault}") from error
        self.requires_grad_(False)

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the facts, with the constructor's options: nothing is fetched, the weights are on the meta device."""
        part = cls.__new__(cls, **options)
        super(VGGish, part).__init__()
        part._take(part.arguments["activation"])
        return part

    def _take(self, activation: bool) -> None:
        """Build the network without its weights, frozen."""
        with torch.device("meta"):
            self.network: Any = VGG(make_layers(), postprocess=False)
        if not activation:
            self.network.embeddings = self.network.embeddings[:-1]
        self.requires_grad_(False)
        self.train(False)

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows of 0.975 s -> (n, 128)."""
        examples = [waveform_to_examples(row, self.sample_rate) for row in windows.cpu().numpy()]
        spectrograms = torch.cat([torch.as_tensor(example) for example in examples]).detach()  # (n, 1, 96, 64)
        return self.network(spectrograms.to(device_of(self), torch.float32))
