"""Checkpoints are read as tensors alone, whatever else is in them, and written as safetensors writes them."""

from __future__ import annotations

import argparse
import builtins
import os
import pickle
import subprocess
import sys
import types
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from codecdiff_unet.weights import Inert, Spec, is_foreign_class, read_tensors, write_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, serialization

Save = Callable[[Any], Path]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Give a file that is there only if something of a checkpoint ran."""
    return tmp_path / "ran"


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(content: Any) -> Path:
        torch.save(content, tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    return write


class Calls:
    """Pickles as the result of a call."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


THEIRS = """
from pathlib import Path

Path({marker!r}).write_text("imported")


class Config:
    def __new__(cls, *arguments):
        Path({marker!r}).write_text("made")
        return super().__new__(cls)

    def __setstate__(self, state):
        Path({marker!r}).write_text("set")


class Mode(Config):
    pass
"""


@pytest.fixture
def theirs(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Give a module that can be imported, and leaves the marker when it is; its classes do so when they are used."""
    (tmp_path / "theirs.py").write_text(THEIRS.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    module = types.ModuleType("theirs")
    exec((tmp_path / "theirs.py").read_text(), module.__dict__)
    monkeypatch.setitem(sys.modules, "theirs", module)
    yield module
    assert isinstance(module.Config(), module.Config)
    assert marker.exists()  # what the tests look for does happen


def forget(module: types.ModuleType, marker: Path) -> None:
    """Leave the module to be imported again, and no marker."""
    del sys.modules[module.__name__]
    marker.unlink()


WEIGHT = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "function",
    [os.system, subprocess.run, builtins.exec, builtins.eval, builtins.getattr, torch.load, torch.hub.load, open],
    ids=lambda function: f"{function.__module__}.{function.__name__}",
)
@pytest.mark.parametrize("where", ["hyper_parameters", "state_dict", "alone"])
def test_a_call_is_refused_and_not_made(function: Any, where: str, save: Save, marker: Path):
    command = f"open({str(marker)!r}, 'w')" if function in (builtins.exec, builtins.eval) else f"touch {marker}"
    call = Calls(function, command)
    content = {"state_dict": {"weight": WEIGHT}, where: {"x": call}}
    file = save(call if where == "alone" else content)
    with pytest.raises(ValueError, match=r"is refused: .*Nothing of it was run\.") as refusal:
        read_tensors(file)
    assert "\n" not in str(refusal.value)
    assert not marker.exists()


def test_the_calls_of_these_tests_are_dangerous(marker: Path):
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {marker}")))  # noqa: S301  # our own, to show that it would run
    assert marker.exists()


def test_objects_of_a_foreign_class_are_read_past_and_nothing_of_theirs_runs(
    save: Save, marker: Path, theirs: types.ModuleType
):
    config = theirs.Config()
    config.__dict__["size"] = "large"
    content = {"config": config, "class": theirs.Config, "mode": Calls(theirs.Mode, "v"), "nested": [{"again": config}]}
    file = save({"state_dict": {"weight": WEIGHT}, "hyper_parameters": content})
    forget(theirs, marker)
    assert torch.equal(read_tensors(file)["weight"], WEIGHT)
    assert not marker.exists()
    assert "theirs" not in sys.modules


def test_settings_made_of_paths_and_namespaces_are_read_past(save: Save):
    settings = {"folder": Path("runs"), "options": argparse.Namespace(lr=1e-4), "more": types.SimpleNamespace(a=[1])}
    file = save({"state_dict": {"weight": torch.arange(3.0)}, "hyper_parameters": settings})
    assert read_tensors(file)["weight"].tolist() == [0, 1, 2]


def test_what_others_allowed_torch_to_build_is_not_built_either(save: Save, marker: Path, theirs: types.ModuleType):
    file = save({"state_dict": {"weight": WEIGHT}, "hyper_parameters": theirs.Config()})
    allowed: Any = [theirs.Config, (os.system, "theirs.Mode")]
    with serialization.safe_globals(allowed):
        before = set(serialization.get_safe_globals())
        marker.unlink()
        assert list(read_tensors(file)) == ["weight"]
        assert set(serialization.get_safe_globals()) == before
        assert not marker.exists()


def test_what_is_allowed_is_forgotten_even_after_a_refusal(save: Save):
    before = set(serialization.get_safe_globals())
    with pytest.raises(ValueError, match="is refused"):
        read_tensors(save(Calls(os.system, "true")))
    assert set(serialization.get_safe_globals()) == before


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "posix.Thing", "subprocess.Popen", "pathlib.Path"])
def test_classes_of_python_torch_and_numpy_are_no_foreign_ones(name: str):
    assert not is_foreign_class(name)


def test_what_a_foreign_class_is_called():
    assert is_foreign_class("discodiff.configs.Config")
    assert is_foreign_class("__main__.Config")
    for name in (
        "theirs.run",
        "Config",
        "torch.nn.Linear",
        "numpy.Array",
        "theirs.Config.__init__",
        "the irs.Config",
        "",
    ):
        assert not is_foreign_class(name), name


def test_an_inert_object_keeps_nothing_and_can_do_nothing():
    inert = Inert("argument", 3)
    inert.__setstate__({"a": 1})
    assert not hasattr(inert, "a")
    with pytest.raises(AttributeError):
        inert.a = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_foreign_object_among_the_tensors_is_refused(save: Save, marker: Path, theirs: types.ModuleType):
    file = save({"state_dict": {"weight": WEIGHT, "bias": theirs.Config()}})
    forget(theirs, marker)
    with pytest.raises(ValueError, match="something other than a plain tensor under bias"):
        read_tensors(file)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([WEIGHT], "contains no tensors by name, but a list"),
        ({}, "contains no tensors by name"),
        ({"a": 1, "b": WEIGHT}, "something other than a plain tensor under a"),
        ({"a": WEIGHT.to_sparse()}, "something other than a plain tensor under a"),
        ({"a": WEIGHT.to("meta")}, "something other than a plain tensor under a"),
        ({3: WEIGHT}, "something other than a plain tensor under 3"),
        (nn.Linear(2, 2), "asks for torch"),
    ],
)
def test_anything_but_plain_tensors_by_name_is_refused(content: Any, message: str, save: Save):
    with pytest.raises(ValueError, match=message):
        read_tensors(save(content))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_other_pickles_are_refused(tmp_path: Path, marker: Path):
    file = tmp_path / "old.pt"
    torch.save({"weight": WEIGHT}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"neither a file of torch\.save nor one of safetensors"):
        read_tensors(file)
    file.write_bytes(pickle.dumps(Calls(os.system, f"touch {marker}")))
    with pytest.raises(ValueError, match=r"neither a file of torch\.save nor one of safetensors"):
        read_tensors(file)
    torch.save({"weight": Calls(os.system, f"touch {marker}")}, file, pickle_protocol=4)
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        read_tensors(file)
    script: Any = torch.jit.script(nn.Linear(2, 2))
    torch.jit.save(script, file)
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        read_tensors(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("words.txt", "no model")
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        read_tensors(file)
    assert not marker.exists()


@pytest.mark.parametrize("left", [0, 3, 100, 5000, -1, -30])
@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_a_file_cut_short_is_told_so(left: int, kind: str, tmp_path: Path):
    file = tmp_path / f"model.{kind}"
    tensors = {str(i): torch.rand(100, 10) for i in range(4)}
    torch.save({"state_dict": tensors}, file) if kind == "ckpt" else save_file(tensors, file)
    assert read_tensors(file).keys() == tensors.keys()
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match="cut short") as refusal:
        read_tensors(file)
    assert "weights_only=False" not in str(refusal.value)  # torch's own advice
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not a file: name a checkpoint"):
        read_tensors(tmp_path / "none.ckpt")


TENSORS = {
    "matrix": WEIGHT,
    "turned": WEIGHT.T,
    "half": WEIGHT.half()[:, 1:],
    "short": torch.arange(5).bfloat16(),
    "number": torch.tensor(3.0),
}


def specs(tensors: dict[str, Tensor]) -> dict[str, Spec]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path):
    write_tensors(tmp_path / "ours.safetensors", specs(TENSORS), iter(TENSORS.values()))
    read = load_file(tmp_path / "ours.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    assert torch.equal(read_tensors(tmp_path / "ours.safetensors")["half"], TENSORS["half"])


def test_a_file_is_byte_for_byte_what_safetensors_writes(tmp_path: Path):
    tensors = {name: torch.rand(3, 4) for name in ("a", "b", "c")}  # which it sorts by precision and name
    write_tensors(tmp_path / "ours", specs(tensors), tensors.values())
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_tensors_are_written_one_after_the_other(tmp_path: Path):
    made: list[weakref.ref[Tensor]] = []

    def one_by_one() -> Iterator[Tensor]:
        for _ in range(5):
            assert sum(alive() is not None for alive in made) <= 1
            tensor = torch.rand(100)
            made.append(weakref.ref(tensor))
            yield tensor
            del tensor

    write_tensors(tmp_path / "file", {str(i): (torch.float32, (100,)) for i in range(5)}, one_by_one())
    assert len(made) == 5
