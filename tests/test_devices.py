"""Whether what runs on a device could run on Apple's: no float64 there, and no operator that torch lacks for MPS.

No such device is needed: the operators that a CPU is given are compared with torch's own table of kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import torch
from small import UNET
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from codecdiff import Pipeline
from codecdiff.config import SamplingConfig
from codecdiff.config.schema import DataConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.training import StageData, StageTrainer

pytestmark = pytest.mark.integration  # reading the table takes seconds


@pytest.fixture(autouse=True)
def as_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of other devices where networks pack weights for this processor; `cpu()` leaves the device."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(Tensor, "cpu", lambda self: torch.from_numpy(self.detach().numpy().copy()))


WIDE = {torch.float64, torch.complex128}


@cache
def operators_of_mps() -> frozenset[str]:
    """Return the operators with a kernel for MPS, or with one for every device: torch's native_functions.yaml."""
    from torchgen.gen import parse_native_yaml
    from torchgen.model import DispatchKey

    folder = files("torchgen") / "packaged" / "ATen" / "native"
    table = parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"))
    index = table.backend_indices[DispatchKey.MPS]
    by_name = {function.func.name: function for function in table.native_functions}

    def is_supported(function: Any) -> bool:
        structured = by_name.get(function.structured_delegate)
        return function.has_composite_kernel or any(index.has_kernel(f) for f in (function, structured) if f)

    return frozenset(str(name) for name, function in by_name.items() if is_supported(function))


class DeviceOperators(TorchDispatchMode):
    """Follows what is computed from the tensors of modules: that is what a device would compute.

    float64: operators with a result that MPS cannot hold. names: those that were run.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        super().__init__()
        self.followed: dict[int, Tensor] = {}  # by storage; they are held, so that no other takes their place
        self.float64, self.names = set[str](), set[str]()
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self.follow(tensor)

    def follow(self, tensor: Tensor) -> None:
        self.followed[tensor.untyped_storage()._cdata] = tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        result = func(*args, **(kwargs or {}))
        if any(each.untyped_storage()._cdata in self.followed for each in inputs):
            self.names.add(
                func._schema.name.removeprefix("aten::") + (f".{func._overloadname}").removesuffix(".default")
            )
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    self.follow(each)
                    if each.dtype in WIDE:
                        self.float64.add(str(func))
        return result

    def missing(self) -> list[str]:
        """Return the operators that MPS lacks; those which end in `_for_cpu` are this CPU's way of a common one."""
        return sorted(name for name in self.names - operators_of_mps() if "_for_cpu" not in name)


def test_float64_and_missing_operators_are_found() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad(), DeviceOperators([layer]) as operators:
        torch.linspace(0, 1, 3, dtype=torch.float64).sum()  # of the host alone
        torch.linalg.eig(layer.weight.double())
    assert operators.float64 == {"aten._to_copy.default", "aten.linalg_eig.default"}
    assert operators.missing() == ["linalg_eig"]


def require_fit(operators: DeviceOperators) -> None:
    assert len(operators.names) > 20
    assert operators.float64 == set()
    assert operators.missing() == []


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++2m", "euler", "heun"])
def test_sampling_needs_nothing_that_apple_silicon_lacks(
    scheduler: str, make_pipeline: Callable[..., Pipeline]
) -> None:
    pipe = make_pipeline()
    for stage in pipe.stages:
        stage.sampling = SamplingConfig(scheduler=scheduler, num_inference_steps=3, guidance_scale=2.0)
    modules = [pipe.codec, pipe.conditioner, *(stage.denoiser for stage in pipe.stages)]
    with DeviceOperators(modules) as operators:
        pipe("a tone", audio_length_in_s=0.3, seed=1)
    require_fit(operators)


def test_the_starter_needs_nothing_that_apple_silicon_lacks() -> None:
    pipe = Pipeline.from_pretrained("starter")
    modules = [pipe.codec, pipe.conditioner, *(stage.denoiser for stage in pipe.stages)]
    with DeviceOperators(modules) as operators:
        pipe("a slow waltz in C major on piano, 90 bpm", audio_length_in_s=1, num_inference_steps=3, seed=1)
    require_fit(operators)


@pytest.mark.parametrize("denoiser", [UNET, {"name": "dit", "width": 16, "depth": 2, "heads": 2}])
def test_a_training_step_needs_nothing_that_apple_silicon_lacks(
    denoiser: dict[str, Any], make_pipeline: Callable[..., Pipeline], store: CodeStore
) -> None:
    pipe = make_pipeline()
    stage = pipe.stages[1]
    stage.denoiser = pipe.new_denoiser(1, denoiser)
    settings = TrainConfig(train_batch_size=2, crop_seconds=0.1, snr_gamma=5.0)
    trainer, data = StageTrainer(stage, settings), StageData(store, pipe, 1, settings, DataConfig())
    with DeviceOperators([pipe.codec, trainer.denoiser, trainer.ema]) as operators:
        for step in range(2):
            trainer.step(data.step(step))
        trainer.validation_loss(data.validation()[:1])
    require_fit(operators)
