"""The interface of denoisers, the networks that are trained."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from codecdiff.interfaces.condition import Condition
from codecdiff.interfaces.part import Part


class Denoiser(Part, nn.Module, ABC):
    """The network of one stage, the only part that learns. It pads to its own multiple of frames, and crops again."""

    derived: ClassVar[tuple[str, ...]] = ("channels", "context_channels", "condition_widths", "frame_rate")
    channels: int  # of the stage's latents
    context_channels: int  # 0: the stage has no context
    condition_widths: Mapping[str, int]  # name -> embedding width
    supports_cuda_graphs: bool = False  # `forward` neither waits for the GPU nor draws random numbers

    @abstractmethod
    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """Predict from noisy latents (b, c, l), timesteps (b,), context (b, c', l) or None: (b, c, l), any l >= 1."""

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> "Denoiser":
        """Return an equivalent denoiser that may be faster for these `timesteps` (n,) and this `condition`."""
        return self

    def repeated_layers(self) -> list[nn.Module]:
        """Return the layers that training compiles one by one; by default the whole network is compiled at once."""
        return [self]

    def adapter_modules(self) -> list[str]:
        """Return the names of the layers that adapters change by default: linear ones and 1x1 convolutions."""
        convolutions = {n for n, m in self.named_modules() if isinstance(m, nn.Conv1d) and m.kernel_size == (1,)}
        return [n for n, m in self.named_modules() if isinstance(m, nn.Linear) or n in convolutions]
