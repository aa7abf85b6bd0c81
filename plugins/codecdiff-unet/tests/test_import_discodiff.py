"""A released checkpoint becomes a folder that loads and computes what the released U-Nets do, or nothing at all."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from codecdiff_unet.import_discodiff import Role, import_released
from released_unet import forward, shapes, weights
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import codecdiff
from codecdiff import Condition, ConditionTokens
from codecdiff.cli.main import app
from codecdiff.testing.tiny import write_tiny

WIDTH, MULTIPLIERS = 36, (2,)
Save = Callable[[dict[str, Any]], Path]


def unet(role: str) -> dict[str, Tensor]:
    return weights(shapes(WIDTH, MULTIPLIERS, role))


def cosine(steps: int = 100) -> Tensor:
    """Betas of Nichol & Dhariwal, from their formula."""
    abar = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
    return torch.tensor([min(1 - abar[k + 1] / abar[k], 0.999) for k in range(steps)])


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def primary() -> dict[str, Tensor]:
    return unet("primary")


@pytest.fixture(scope="module")
def secondary() -> dict[str, Tensor]:
    return unet("secondary")


@pytest.fixture(scope="module")
def state(primary: dict[str, Tensor], secondary: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a released Lightning file, with what is left out of a model cut down."""
    return {
        **prefixed("diffusion.denoise_model.", primary),
        **prefixed("diffusion.denoise_model_secondary.", secondary),
        "diffusion.betas": cosine(),
        "diffusion.alphas_cumprod": (1 - cosine()).cumprod(0),
        "diffusion.posterior_variance": torch.rand(100),
        "chroma_diffusion.betas": cosine(),
        "chroma_diffusion.denoise_model.init_conv.weight": torch.rand(4, 12, 3),
        "meta_cond_encoder_decoder.encoder.shared.weight": torch.rand(4, 4),
        "dac_model.encoder.block.0.weight": torch.rand(4, 4),
    }


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Give a function that writes a Lightning file of these tensors, with a class of theirs among its settings."""

    def write(tensors: dict[str, Any]) -> Path:
        module: Any = types.ModuleType("theirs")
        exec("class Config:\n    pass", module.__dict__)
        sys.modules["theirs"] = module
        settings = {"config": module.Config(), "rate": 1e-4}
        content = {"epoch": 3, "state_dict": tensors, "hyper_parameters": settings, "optimizer_states": [{"state": {}}]}
        torch.save(content, tmp_path / "released.ckpt")
        del sys.modules["theirs"]
        return tmp_path / "released.ckpt"

    return write


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give folders of a DAC and a T5 whose shapes fit: 9 codebooks of 8, and 1024 features."""
    pytest.importorskip("codecdiff_dac")
    pytest.importorskip("codecdiff_t5")
    dac, t5 = (write_tiny(name, tmp_path_factory.mktemp(name)) for name in ("dac", "t5"))
    from transformers import DacConfig, DacModel, T5Config, T5EncoderModel

    DacModel(DacConfig.from_pretrained(dac, n_codebooks=9)).save_pretrained(dac)
    T5EncoderModel(T5Config.from_pretrained(t5, d_model=1024)).save_pretrained(t5)
    return {"codec": str(dac), "conditioner": str(t5)}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["import-discodiff", *map(str, arguments)])


def refused(folder: Path, *arguments: object) -> str:
    """Give what an import that fails says, once it is known to have left nothing."""
    before = sorted(folder.parent.iterdir())
    result = run(*arguments, "-o", folder)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert sorted(folder.parent.iterdir()) == before
    return result.output


def agrees(model: codecdiff.Pipeline, name: str, released: dict[str, Tensor]) -> None:
    """Compare a stage with the released mathematics, told of a text."""
    stage = model.stages[model.stage_names.index(name)]
    generator = torch.Generator().manual_seed(0)
    channels, context_channels = stage.denoiser.channels, stage.denoiser.context_channels
    noisy, text = (torch.randn(2, *shape, generator=generator) for shape in ((channels, 8), (5, 1024)))
    context = torch.randn(2, context_channels, 8, generator=generator) if context_channels else None
    step, real = torch.tensor([0, 77]), torch.ones(2, 5, dtype=torch.bool)
    condition = Condition({"text": ConditionTokens(text, real), "vector": ConditionTokens(text[:, :1], real[:, :1])})
    with torch.no_grad():
        ours = stage.denoiser(noisy, step, context, condition)
        theirs = forward(released, noisy, step, text[:, 0], None, text, context)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        ours = stage.denoiser(noisy, step, context, condition.null())
        torch.testing.assert_close(ours, forward(released, noisy, step, context=context), atol=1e-4, rtol=0)


def test_a_lightning_file_becomes_a_model_that_generates(
    state: dict[str, Tensor], primary: Any, secondary: Any, save: Save, parts: dict[str, str], tmp_path: Path
):
    folder = tmp_path / "model"
    result = run(save(state), "-o", folder, "--codec", parts["codec"], "--conditioner", parts["conditioner"])
    assert result.exit_code == 0, result.output
    assert "is complete" in result.output
    model = codecdiff.load(folder)
    agrees(model, "primary", primary)
    agrees(model, "secondary", secondary)
    spec = json.loads((folder / "codecdiff.json").read_text())
    trained = json.loads(json.dumps(model.to_config()))  # as a model that was trained would be written
    assert {"model.safetensors"} == {Path(name).name for name in spec.pop("files")}
    assert spec.pop("sha256")
    assert {**spec, "code": trained["code"]} == trained  # no part is built for it, so none has a version
    assert (spec["target"], spec["snap_context"]) == ("continuous", False)
    words = (folder / "README.md").read_text()
    assert "Data: not recorded" in words
    assert "Imported from `released.ckpt`" in words
    assert spec["conditioner"]["attend_padding"] is False
    for stage in model.stages:
        assert stage.to_config().items() <= json.loads((folder / stage.name / "stage.json").read_text()).items()
        assert (stage.sampling.scheduler, stage.sampling.num_inference_steps, stage.sampling.guidance_scale) == (
            "ddpm",
            100,
            3.0,
        )
        torch.testing.assert_close(stage.train_scheduler.betas, cosine(), atol=1e-6, rtol=0)
    codec: Any = model.codec
    assert codec.mean[:, 0, 0].tolist() == pytest.approx([0.58, -0.11, -0.18, -0.04, -0.23, -0.06, 0.08, 0, 0.03])
    assert codec.std[:, 7, 0].tolist() == pytest.approx([4.95, 4.00, 3.61, 3.41, 3.24, 3.16, 3.06, 2.93, 2.79])
    audio = model(["slow piano", ""], audio_length_in_s=0.1, num_inference_steps=2).audios
    assert audio.shape == (2, 1, round(0.1 * model.sample_rate))
    assert audio.std() > 0


def test_a_parallel_model_is_one_stage(save: Save, parts: dict[str, str], tmp_path: Path):
    released = unet("parallel")
    file = save(prefixed("diffusion.denoise_model.", released))
    options: Any = {"codec": {"name": "dac", "model": parts["codec"]}, "conditioner": {"name": "t5"}}
    options["conditioner"]["model"] = parts["conditioner"]
    import_released(file, tmp_path / "model", **options)
    model = codecdiff.load(tmp_path / "model")
    assert model.to_config()["splitter"] == {"name": "parallel"}
    agrees(model, "stage1", released)


@pytest.mark.parametrize(
    "order", [pytest.param(("primary", "secondary"), marks=pytest.mark.integration), ("secondary", "primary")]
)
def test_two_files_of_one_unet_each_complete_a_folder(
    order: tuple[Role, Role], primary: Any, secondary: Any, state: Any, save: Save, tmp_path: Path
):
    files = {"primary": tmp_path / "one.safetensors", "secondary": tmp_path / "two.pt"}
    save_file(primary, files["primary"])
    torch.save(secondary, files["secondary"])
    folder = tmp_path / "model"
    first, second = order
    assert (
        f"lacks its {second} yet: import it with --role {second}"
        in run(files[first], "-o", folder, "--role", first).output
    )
    assert "has its" in refused(folder, files[first], "--role", first)
    assert "conditioner.model is" in refused(folder, files[second], "--role", second, "--conditioner", "a/b")
    assert not (folder / second).exists()
    assert "is complete" in run(files[second], "-o", folder, "--role", second).output
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    import_released(save(state), tmp_path / "whole")
    for name in order:
        pair = [load_file(place / name / "model.safetensors") for place in (folder, tmp_path / "whole")]
        assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0].keys() | pair[1].keys())


def test_neither_codec_nor_conditioner_is_needed(state: Any, save: Save, tmp_path: Path):
    run(save(state), "-o", tmp_path / "model")
    spec = json.loads((tmp_path / "model" / "codecdiff.json").read_text())
    assert spec["codec"]["codec"]["model"] == "descript/dac_44khz"
    assert spec["conditioner"]["model"] == "google/flan-t5-large"
    assert "Did you mean 'dac'" in refused(tmp_path / "other", save(state), "--codec", "dacc")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_said(dtype: torch.dtype, primary: Any, tmp_path: Path):
    torch.save({name: tensor.to(dtype) for name, tensor in primary.items()}, tmp_path / "half.pt")
    result = run(tmp_path / "half.pt", "-o", tmp_path / "model", "--role", "primary")
    assert f"in {dtype}, stored so and computed in float32".replace("torch.", "") in result.output
    kept = load_file(tmp_path / "model" / "primary" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    assert torch.equal(kept["output.resample.bias"], primary["final_conv.bias"].to(dtype))


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


SECONDARY = "diffusion.denoise_model_secondary."


def test_what_is_missing_extra_or_of_another_shape_is_named(state: Any, save: Save, tmp_path: Path):
    wrong = without(state, "diffusion.denoise_model.mid_attn.fn.norm.g", "diffusion.denoise_model.final_conv.bias")
    wrong["diffusion.denoise_model.extra.weight"] = torch.rand(3)
    wrong["diffusion.denoise_model.mid_block1.mlp.1.weight"] = torch.rand(3, 4)
    said = refused(tmp_path / "model", save(wrong))
    for line in (
        "missing: mid_attn.fn.norm.g (1, 72, 1)",
        "missing: final_conv.bias (8,)",
        "not expected: extra.weight (3,)",
        "of shape (3, 4), not (144, 288): mid_block1.mlp.1.weight",
    ):
        assert line in said
    said = refused(tmp_path / "model", save({k: v for k, v in state.items() if not k.startswith(SECONDARY)}))
    assert "is not the secondary U-Net" in said
    assert "missing: null_cond_emb (1024,)" in said
    assert "more" in said.splitlines()[-1]
    assert "ema.rate" in refused(tmp_path / "model", save({**state, "ema.rate": torch.rand(3)}))
    double = {**state, f"{SECONDARY}init_conv.bias": torch.zeros(36).double()}
    assert "of torch.float64: init_conv.bias" in refused(tmp_path / "model", save(double))


def test_another_noise_schedule_is_refused(state: Any, save: Save, tmp_path: Path):
    for betas in (cosine(1000), torch.linspace(1e-4, 0.02, 100)):
        said = refused(tmp_path / "model", save({**state, "diffusion.betas": betas}))
        assert "another noise schedule: its diffusion.betas" in said


def test_another_model_or_role_is_refused(primary: Any, secondary: Any, state: Any, save: Save, tmp_path: Path):
    folder, plain = tmp_path / "model", tmp_path / "plain.pt"
    torch.save(secondary, plain)
    assert "is by its channels a secondary, not a primary" in refused(folder, plain, "--role", "primary")
    assert "say which: --role primary, secondary, parallel" in refused(folder, plain)
    assert "leave --role out" in refused(folder, save(state), "--role", "primary")
    torch.save({"layer.weight": torch.rand(3, 3)}, plain)
    assert "is not a released DiscoDiff" in refused(folder, plain, "--role", "primary")
    torch.save({**primary, "init_conv.weight": torch.rand(0, 8, 3)}, plain)
    assert "these tensors are empty: init_conv.weight" in refused(folder, plain, "--role", "primary")
    swapped = {**prefixed("diffusion.denoise_model.", secondary), **prefixed(SECONDARY, primary)}
    assert "is by its channels a secondary, not a primary" in refused(folder, save(swapped))


def test_a_file_cut_short_or_hostile_is_refused(state: Any, save: Save, tmp_path: Path):
    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    assert "asks for posix.system" in refused(tmp_path / "model", save({**state, "weight": Hostile()}))
    file = save(state)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    assert "cut short" in refused(tmp_path / "model", file)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let no file grow over a megabyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_leaves_nothing_and_breaks_nothing(
    primary: Any, secondary: Any, tmp_path: Path, request: pytest.FixtureRequest
):
    files = {"primary": tmp_path / "one.safetensors", "secondary": tmp_path / "two.safetensors"}
    save_file(primary, files["primary"])
    save_file(secondary, files["secondary"])
    folder = tmp_path / "there"
    run(files["primary"], "-o", folder, "--role", "primary")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    request.getfixturevalue("small_disk")
    said = refused(tmp_path / "new", files["primary"], "--role", "primary")
    assert "could not be written: File too large. Nothing of it is left." in said
    assert "could not be written" in refused(folder, files["secondary"], "--role", "secondary")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_folder_that_is_something_else_is_refused(primary: Any, tmp_path: Path):
    save_file(primary, tmp_path / "one.safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "exists and is not a model" in refused(tmp_path / "mine", tmp_path / "one.safetensors", "--role", "primary")
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "one.safetensors", "-o", tmp_path / "empty", "--role", "primary").exit_code == 0


LARGE = """
import sys, threading, time
from pathlib import Path
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from released_unet import shapes

def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 2**20

folder = Path(sys.argv[1])
with FakeTensorMode():
    tensors = {name: torch.empty(shape) for name, shape in shapes(576, (1, 1, 2, 2, 4), "primary").items()}
with torch.serialization.skip_data(materialize_fake_tensors=True):
    torch.save(tensors, folder / "large.pt")  # a sparse file of zeros
from codecdiff_unet.import_discodiff import import_released
idle, most, done = held(), [0.0], threading.Event()

def watch():
    while not done.wait(0.005):
        most[0] = max(most[0], held())

watcher = threading.Thread(target=watch)
watcher.start()
import_released(folder / "large.pt", folder / "model", role="primary")
done.set()
watcher.join()
print(idle, most[0])
"""


@pytest.mark.slow
def test_a_large_unet_passes_through_little_memory(tmp_path: Path):
    """RssAnon is what a process has itself, without the pages of the mapped checkpoint, which can be dropped."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    program = [sys.executable, "-c", LARGE, str(tmp_path)]
    answer = subprocess.run(program, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    idle, most = map(float, answer.stdout.split())
    assert (tmp_path / "model" / "primary" / "model.safetensors").stat().st_size > 4 * 1_235_493_844
    assert most - idle < 1.5  # GiB
    (tmp_path / "model" / "primary" / "model.safetensors").unlink()
