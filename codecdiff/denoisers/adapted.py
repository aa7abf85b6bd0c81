"""A denoiser with the layers of an adapter in it, by peft: LoRA (Hu et al., 2022) or DoRA (Liu et al., 2024)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from codecdiff import rng
from codecdiff.config.schema import Config
from codecdiff.errors import BrokenPlugin, InvalidValue, UnknownName, did_you_mean
from codecdiff.interfaces import Condition, Denoiser

__all__ = ["AdaptedDenoiser", "AdapterConfig", "select_modules"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # that peft can adapt


class AdapterConfig(Config):
    """What an adapter changes of a denoiser, and how: with weight 1, by alpha / rank times a product of two matrices.

    modules: names of layers, or patterns such as "*.qkv"; null for those that the denoiser declares.
    """

    type: Literal["lora", "dora"] = "lora"
    rank: int = Field(default=8, ge=1, le=1024)
    alpha: PositiveInt | None = None  # null: the rank
    dropout: float = Field(default=0, ge=0, lt=1)  # of what the added layers read, in training
    modules: list[str] | None = None


def select_modules(denoiser: Denoiser, patterns: Sequence[str] | None) -> list[str]:
    """Return the names of the layers to adapt, of those that can be. Raises UnknownName for a pattern without any."""
    available = [name for name, module in denoiser.named_modules() if isinstance(module, LAYERS)]
    patterns = denoiser.adapter_modules() if patterns is None else patterns
    matches = {pattern: [name for name in available if fnmatchcase(name, pattern)] for pattern in patterns}
    for pattern, names in matches.items():
        if not names:
            shown = ", ".join(available[:8]) + (", ..." if len(available) > 8 else "")
            raise UnknownName(
                f"Unknown module '{pattern}' of the denoiser {type(denoiser).__name__}: expected linear layers or "
                f"convolutions, or a pattern such as '*.qkv'. It has {shown}.{did_you_mean(pattern, available)}"
            )
    return [name for name in available if any(name in names for names in matches.values())]


def insert_layers(denoiser: Denoiser, adapter: AdapterConfig, seed: int = 0) -> Denoiser:
    """Put the layers of an adapter into a denoiser, in place, all else frozen. They change nothing at first.

    `adapter.modules` are full names. Raises BrokenPlugin if peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise BrokenPlugin("Adapters need the package peft: pip install peft.") from error
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha or adapter.rank,
        lora_dropout=adapter.dropout,
        use_dora=adapter.type == "dora",
        # matched whole, where a list would match the ends of names
        target_modules="|".join(map(re.escape, adapter.modules or [])),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.generator("codecdiff.train.adapter", seed).initial_seed())
        inject_adapter_in_model(config, denoiser)
    return denoiser


class AdaptedDenoiser(Denoiser):
    """A denoiser with the layers of an adapter in it. Only they are trained, and are all of its state."""

    def __init__(self, network: Denoiser, adapter: AdapterConfig, seed: int = 0):
        super().__init__()
        self.channels, self.context_channels = network.channels, network.context_channels
        self.condition_widths, self.controls = network.condition_widths, network.controls
        self.adapter = adapter.model_copy(update={"modules": select_modules(network, adapter.modules)})
        self.network = insert_layers(network, self.adapter, seed)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """Predict as the denoiser does, with the change of the adapter."""
        return self.network(noisy, timestep, context, condition)

    def portable(self) -> Denoiser:
        """Return the denoiser, whose name and options describe this one except for the adapter."""
        return self.network

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """Return the tensors of the adapter alone, as peft names them."""
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(self.network, save_embedding_layers=False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the tensors of the adapter. Raises InvalidValue unless they are all that it has, of the same shapes."""
        from peft import set_peft_model_state_dict

        expected, there = ({name: tuple(t.shape) for name, t in d.items()} for d in (self.state_dict(), state_dict))
        if differ := sorted(name for name in {*expected, *there} if expected.get(name) != there.get(name)):
            raise InvalidValue(
                f"The tensors are not those of this adapter: {len(differ)} differ, '{differ[0]}' first, which is "
                f"{there.get(differ[0], 'missing')} instead of {expected.get(differ[0], 'absent')}."
            )
        return set_peft_model_state_dict(self.network, dict(state_dict))

    @torch.no_grad()
    def weight_changes(self) -> dict[str, Tensor]:
        """Return what the adapter adds to every weight that it changes, by the weight's name in the denoiser."""
        from peft.tuners.lora import LoraLayer

        changes = {}
        for name, layer in self.network.named_modules():
            if isinstance(layer, LoraLayer):
                weight: Any = layer.get_base_layer().weight
                before = weight.clone()
                layer.merge()  # pyright: ignore[reportCallIssue]  # of every kind of layer, in place
                changes[f"{name}.weight"] = layer.get_base_layer().weight - before
                layer.unmerge()  # pyright: ignore[reportCallIssue]
                weight.copy_(before)
        return changes
