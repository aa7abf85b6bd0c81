"""Adapters: trained beside a model, loaded into it with weights, and taken out again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from small import noise, rewrite
from torch import Tensor
from typer.testing import CliRunner

import codecdiff
from codecdiff import Pipeline
from codecdiff.cli.main import app
from codecdiff.denoisers.adapted import AdaptedDenoiser, AdapterConfig, select_modules
from codecdiff.errors import InvalidValue, MissingFile, UnknownName, UserError
from codecdiff.pipeline.adapters import AdapterStage, parse_adapter, write_adapter
from codecdiff.pipeline.checkpoint import save_stage
from codecdiff.pipeline.provenance import GenerationRequest

pytest.importorskip("peft")

Make = Callable[..., Pipeline]
KINDS: list[Literal["lora", "dora"]] = ["lora", "dora"]
SHORT: Any = {"audio_length_in_s": 0.2, "seed": 3, "loudness": "off"}


@pytest.fixture(scope="module")
def model(make_pipeline: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model of two stages to a folder, which no test changes."""
    folder = tmp_path_factory.mktemp("models") / "model"
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(model: Path) -> Pipeline:
    return codecdiff.load(model)


def adapted(pipe: Pipeline, i: int, kind: Literal["lora", "dora"], seed: int = 0) -> AdaptedDenoiser:
    """Return the denoiser of a stage with an adapter that changes it."""
    denoiser = AdaptedDenoiser(deepcopy(pipe.stages[i].denoiser), AdapterConfig(type=kind, rank=2))
    state = denoiser.state_dict().items()
    denoiser.load_state_dict({n: t + 0.1 * noise(*t.shape, seed=seed + k) for k, (n, t) in enumerate(state)})
    return denoiser.eval()


def write(folder: Path, pipe: Pipeline, kind: Literal["lora", "dora"] = "lora", seed: int = 0) -> Path:
    """Write an adapter of both stages that changes them."""
    write_adapter(folder, pipe.base_fingerprint, {"hash": "of the music"}, allow_changes=False)
    for i, stage in enumerate(pipe.stages):
        options = {"noise_color": stage.noise_color, "facts": {"steps": 1}}
        save_stage(
            folder,
            AdapterStage(stage.name, adapted(pipe, i, kind, seed), stage.train_scheduler, stage.sampling, **options),
        )
    return folder


@pytest.fixture(scope="module")
def written(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("adapters") / "adapter", codecdiff.load(model))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Return the folder of an adapter of the model, which the test may change."""
    return shutil.copytree(written, tmp_path / "lora")


def weights(pipe: Pipeline) -> list[Tensor]:
    return [parameter.clone() for stage in pipe.stages for parameter in stage.denoiser.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x.view(torch.int32), y.view(torch.int32)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_weight_0_and_unloading_leave_every_bit(pipe: Pipeline, tmp_path: Path, kind: Literal["lora", "dora"]) -> None:
    folder, before, fingerprint = write(tmp_path / "adapter", pipe, kind), weights(pipe), pipe.fingerprint
    audio = pipe("a tone", **SHORT).audios
    pipe.load_adapter(folder, weight=0)
    assert same(weights(pipe), before)
    assert pipe.fingerprint == fingerprint
    pipe.load_adapter(folder, weight={"primary": 0.5})
    changed = weights(pipe)
    assert not same(changed, before)
    assert pipe.fingerprint != fingerprint
    assert not torch.equal(pipe("a tone", **SHORT).audios, audio)
    pipe.unload_adapters()
    assert same(weights(pipe), before)
    assert pipe.fingerprint == fingerprint
    assert torch.equal(pipe("a tone", **SHORT).audios, audio)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_generates_what_its_layers_do(
    pipe: Pipeline, tmp_path: Path, kind: Literal["lora", "dora"]
) -> None:
    folder = write(tmp_path / "adapter", pipe, kind)
    for i, stage in enumerate(pipe.stages):
        inputs = noise(2, stage.denoiser.channels, 9), torch.tensor([3, 70])
        context = noise(2, stage.denoiser.context_channels, 9) if i else None
        assert pipe.conditioner
        condition = pipe.conditioner.encode(["a tone", ""])
        with torch.no_grad():
            expected = adapted(pipe, i, kind)(*inputs, context, condition)
            plain = stage.denoiser(*inputs, context, condition)
            pipe.load_adapter(folder)
            merged = stage.denoiser(*inputs, context, condition)
            prepared = stage.denoiser.prepare_for_sampling(inputs[1], condition)(*inputs, context, condition)
        assert (merged - expected).abs().max() < 1e-5
        assert (prepared - expected).abs().max() < 1e-5
        assert (plain - expected).abs().max() > 1e-2
        pipe.unload_adapters()


def test_changes_of_several_adapters_add_up_in_any_order(pipe: Pipeline, tmp_path: Path) -> None:
    first, second = write(tmp_path / "1", pipe), write(tmp_path / "2", pipe, "dora", seed=50)
    before = weights(pipe)
    alone = []
    for folder, weight in ((first, 0.5), (second, 2.0)):
        alone.append([a - b for a, b in zip(weights(pipe.load_adapter(folder, weight)), before, strict=True)])
        pipe.unload_adapters()
    for order in ((first, 0.5, second, 2.0), (second, 2.0, first, 0.5)):
        pipe.load_adapter(*order[:2]).load_adapter(*order[2:])
        for now, base, a, b in zip(weights(pipe), before, *alone, strict=True):
            assert torch.allclose(now, base + a + b, atol=1e-5)
        pipe.unload_adapters()
    assert same(weights(pipe), before)


def test_a_weight_may_be_of_one_stage(pipe: Pipeline, folder: Path) -> None:
    primary, secondary = ([p.clone() for p in stage.denoiser.parameters()] for stage in pipe.stages)
    pipe.load_adapter(folder, {"primary": 0, "secondary": 1})
    assert same(list(pipe.stages[0].denoiser.parameters()), primary)
    assert not same(list(pipe.stages[1].denoiser.parameters()), secondary)
    assert pipe.adapters[0].record.weights == {"primary": 0, "secondary": 1}


def test_a_model_in_half_precision_takes_adapters(model: Path, folder: Path) -> None:
    pipe = codecdiff.load(model, dtype=torch.bfloat16)
    before = [p.clone() for stage in pipe.stages for p in stage.denoiser.parameters()]
    assert pipe.load_adapter(folder)("a tone", **SHORT).audios.isfinite().all()
    pipe.unload_adapters()
    after = [p for stage in pipe.stages for p in stage.denoiser.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_model_can_be_saved_with_an_adapter_in_its_weights(
    pipe: Pipeline, model: Path, tmp_path: Path, folder: Path
) -> None:
    pipe.load_adapter(folder, 0.7)
    files = {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    with pytest.raises(InvalidValue, match="save it in another folder"):
        pipe.save_pretrained(model)
    assert files == {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    pipe.save_pretrained(tmp_path / "merged")
    merged = codecdiff.load(tmp_path / "merged")
    assert torch.equal(merged("a tone", **SHORT).audios, pipe("a tone", **SHORT).audios)
    assert merged.stages[0].facts["adapters"][0]["weights"] == {"primary": 0.7, "secondary": 0.7}


def test_an_adapter_of_another_model_is_refused(pipe: Pipeline, model: Path, folder: Path) -> None:
    before = weights(pipe)
    spec = json.loads((folder / "adapter.json").read_text())
    assert spec["model"] == pipe.fingerprint
    rewrite(folder / "adapter.json", {**spec, "model": "0" * 32})
    with pytest.raises(InvalidValue, match=f"of another model, '.*' \\(0+\\), and this one is {pipe.fingerprint}"):
        pipe.load_adapter(folder)
    contents = (folder / "adapter.json").read_bytes()
    with pytest.raises(InvalidValue, match="of another model"):
        write_adapter(folder, pipe.base_fingerprint, {}, allow_changes=True)
    assert (folder / "adapter.json").read_bytes() == contents
    assert same(weights(pipe), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 3}, "The tensors are not those of this adapter: .* differ"),
        ({"modules": ["input"]}, "The tensors are not those of this adapter: .* differ"),
        ({"modules": ["absent"]}, "Unknown module 'absent' of the denoiser UNet"),
        ({"rank": 2**40}, "adapter"),
        ({"code": "os.system"}, "adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_changes_nothing(
    pipe: Pipeline, folder: Path, change: dict[str, Any], message: str
) -> None:
    before = weights(pipe)
    file = folder / "secondary" / "stage.json"
    spec = json.loads(file.read_text())
    spec["denoiser"]["adapter"] |= change
    rewrite(file, spec)
    with pytest.raises(UserError, match=message):
        pipe.load_adapter(folder)
    assert not pipe.adapters
    assert same(weights(pipe), before)


def test_damage_is_noticed(pipe: Pipeline, folder: Path) -> None:
    file = folder / "primary" / "model.safetensors"
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    with pytest.raises(InvalidValue, match="damaged"):
        pipe.load_adapter(file.parent.parent)


def test_wrong_folders_stages_and_weights(pipe: Pipeline, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MissingFile, match=r"does not hold an adapter: adapter\.json is missing"):
        pipe.load_adapter(tmp_path)
    with pytest.raises(UnknownName, match="does not adapt a stage 'third', but primary, secondary"):
        pipe.load_adapter(folder, {"third": 1})
    with pytest.raises(InvalidValue, match="Invalid weight nan"):
        pipe.load_adapter(folder, float("nan"))
    (folder / "secondary" / "stage.json").unlink()  # half an adapter is none
    with pytest.raises(UserError, match=r"secondary.*stage\.json"):
        pipe.load_adapter(folder)
    for name in ("primary", "secondary"):
        shutil.rmtree(folder / name)
    with pytest.raises(InvalidValue, match="no trained stage"):
        pipe.load_adapter(folder)


def test_weights_on_the_command_line(tmp_path: Path) -> None:
    assert parse_adapter("runs/blues") == ("runs/blues", 1.0)
    assert parse_adapter("runs/blues:0.5") == ("runs/blues", 0.5)
    assert parse_adapter("a:b:primary=0.5,secondary=-1") == ("a:b", {"primary": 0.5, "secondary": -1.0})
    folder = tmp_path / "x:2"
    folder.mkdir()
    assert parse_adapter(str(folder)) == (str(folder), 1.0)
    for weights in ("loud", "0.5,0.7", "primary=1,primary=2", "0.5,primary=1"):
        with pytest.raises(InvalidValue, match=f"Invalid adapter 'runs/blues:{weights}'"):
            parse_adapter(f"runs/blues:{weights}")


def test_other_music_is_refused_or_recorded(pipe: Pipeline, tmp_path: Path) -> None:
    write_adapter(tmp_path, pipe.base_fingerprint, {"hash": "a"}, allow_changes=False)
    with pytest.raises(InvalidValue, match="trained on other music"):
        write_adapter(tmp_path, pipe.base_fingerprint, {"hash": "b"}, allow_changes=False)
    write_adapter(tmp_path, pipe.base_fingerprint, {"hash": "b"}, allow_changes=True)
    assert json.loads((tmp_path / "adapter.json").read_text())["data"] == {"hash": "b", "before": ["a"]}
    write_adapter(tmp_path, pipe.base_fingerprint, {"hash": "b"}, allow_changes=False)


def test_modules_by_name_and_pattern(pipe: Pipeline) -> None:
    denoiser = pipe.stages[0].denoiser
    assert "downs.0.resample" in select_modules(denoiser, None)  # the U-Net declares its convolutions
    assert select_modules(denoiser, ["input"]) == ["input"]
    assert all(name.endswith(".time") for name in select_modules(denoiser, ["*.time"]))
    with pytest.raises(UnknownName, match=r"Unknown module 'inputs'.* It has .*Did you mean 'input'\?"):
        select_modules(denoiser, ["inputs"])


# The command line


@pytest.fixture
def settings(model: Path, music: Path, tmp_path: Path) -> list[str]:
    train = {"max_train_steps": 4, "train_batch_size": 2, "crop_seconds": 0.1, "checkpointing_steps": 2}
    lines = [f"train.{name}={value}" for name, value in train.items()]
    named = {"start_from": model, "data.audio": music, "output": tmp_path / "run", "adapter.rank": 2}
    return [*lines, *(f"{name}={value}" for name, value in named.items())]


def run(*words: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


@pytest.mark.integration
def test_train_resume_generate_and_inspect(
    settings: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(import_module("codecdiff.recipes.adapter").console, "log", lines.append)
    before = {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    run("train", "--adapter", "dora", *settings)
    of_primary = [line for line in lines if line.startswith("primary: ")]
    assert re.fullmatch(r"primary: validation loss [\d.]+ without the adapter", of_primary[1])
    assert re.search(r"step 4 of 4, .*; [\d.]+% (lower|higher) than without the adapter \([\d.]+\)$", of_primary[3])
    home = tmp_path / "run" / "adapter"
    spec = json.loads((home / "primary" / "stage.json").read_text())["denoiser"]["adapter"]
    assert (spec["type"], spec["rank"]) == ("dora", 2)
    for name in ("stage.json", "log.jsonl", "model.safetensors"):  # as if killed before they were first published
        (home / "primary" / name).unlink()
    run("train", "--adapter", "dora", *settings, "train.max_train_steps=6")
    assert lines.count("primary: previously finished at step 4; continuing to step 6") == 2  # here of the settings, too
    log = [json.loads(line)["step"] for line in (home / "secondary" / "log.jsonl").read_text().splitlines()]
    assert log == [2, 4, 6]
    assert before == {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    assert "denoiser.adapter.rank is 2 there, 3 here" in run(
        "train", "--adapter", "dora", *settings, "adapter.rank=3", exit_code=1
    )

    words = ["--model", str(model), "--seconds", "0.2", "--seed", "1", "-o"]
    run("generate", "a tone", *words, str(tmp_path / "plain.flac"))
    run("generate", "a tone", "--adapter", f"{tmp_path / 'run'}:2", *words, str(tmp_path / "adapted.flac"))
    request = GenerationRequest.from_file(tmp_path / "adapted.flac")
    (record,) = request.adapters or []
    assert record.weights == {"primary": 2, "secondary": 2}
    assert GenerationRequest.from_file(tmp_path / "plain.flac").adapters is None
    assert ") with the adapter run/adapter: primary 1, secondary 1 Pipeline on cpu" in run(
        "inspect", str(model), "--adapter", str(tmp_path / "run")
    )
    assert f"name its model too, --model MODEL --adapter {tmp_path / 'run'}" in run(
        "inspect", str(tmp_path / "run"), exit_code=1
    )
    again = ["inspect", str(tmp_path / "adapted.flac"), "--model", str(model)]
    assert "holds the same samples" in run(*again, "--adapter", f"{tmp_path / 'run'}:2")
    assert "and --adapter run/adapter:primary=2,secondary=2" in run(*again, "--force", exit_code=1)

    assert len(list((tmp_path / "run" / "samples").glob("*.wav"))) == 4  # of captions of the music
    page = pytest.importorskip("codecdiff_eval.run_report").write_run_report(tmp_path / "run")
    assert page.read_text(encoding="utf-8").count("<audio") == 4
    assert ">before</text>" in page.read_text(encoding="utf-8")
    assert re.search(r"\| tracks \| [1-9]", page.with_name("report.md").read_text(encoding="utf-8"))


def test_bad_settings_are_refused_before_anything_is_written(settings: list[str], tmp_path: Path) -> None:
    for words, message in {
        ("start_from=",): "start_from is missing",
        ("adapter.modules=[inputs]",): "Unknown module 'inputs'",
        ("adapter.rank=0",): "adapter.rank",
        ("stage=third",): "third",
        ("--plan",): "leave out either it or --adapter",
    }.items():
        assert message in run("train", "--adapter", "lora", *settings, *words, exit_code=1)
    assert "adapter.type = 'ia3'" in run("train", "--adapter", "ia3", *settings, exit_code=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_peft_is_imported_only_for_adapters() -> None:
    code = "import sys, codecdiff.pipeline.adapters, codecdiff.pipeline.output; assert 'peft' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
