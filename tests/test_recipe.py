"""The recipe, from a folder of audio to samples, on the smallest things there are."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from small import UNET
from typer.testing import CliRunner

import codecdiff
from codecdiff import config, training
from codecdiff.cli.main import app
from codecdiff.cli.train import recipe_command
from codecdiff.config import ConfigError
from codecdiff.data.audio import read_audio
from codecdiff.diffusion.noise_schedule import prediction_type_of
from codecdiff.pipeline.editing import EditMask, Extend, Inpaint, Refine, Restore, Vary
from codecdiff.pipeline.stage import Stage
from codecdiff.profiling import plan
from codecdiff.training import StageTrainer
from codecdiff.training.accelerator import set_up_sharding

pytestmark = pytest.mark.integration

RECIPE = Path(__file__).parent.parent / "recipes" / "discodiff.py"
SCALING = Path(__file__).parent.parent / "docs" / "scaling.md"

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["recipe"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(tmp_path: Path, codec_spec: dict[str, Any], music: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "output": str(tmp_path / "out"),
                "codec": codec_spec,
                "splitter": {"name": "coarse-first"},
                "conditioner": {"name": "words"},
                "denoiser": UNET,
                "data": {"audio": str(music), "validation_fraction": 0.2},
                "train": {
                    "max_train_steps": 4,
                    "warmup_steps": 0,
                    "learning_rate": 1e-3,
                    "train_batch_size": 2,
                    "crop_seconds": 0.1,
                    "checkpointing_steps": 2,
                },
                "diffusion": {"num_train_timesteps": 100},
                "sampling": {"scheduler": "ddim", "num_inference_steps": 2},
                "prompts": ["a tone", ""],
                "seconds": 0.2,
            }
        )
    )
    return file


@pytest.fixture
def run(recipe: ModuleType, settings: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs the recipe with overrides and gives its output folder."""

    def main(*overrides: str) -> Path:
        arguments = ["--config", str(settings), *overrides]
        monkeypatch.setattr(sys, "argv", [str(RECIPE), *arguments])
        recipe_command(recipe.train).main(arguments, standalone_mode=False)
        return settings.parent / "out"

    return main


def steps(out: Path, stage: str) -> list[int]:
    log = (out / "model" / stage / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in log]


def losses(out: Path, stage: str = "primary") -> list[float]:
    log = (out / "model" / stage / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["validation_loss"] for line in log]


def test_it_trains_saves_samples_and_goes_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("train.validation_steps=2")
    assert (steps(out, "primary"), steps(out, "secondary")) == ([2, 4], [2, 4])
    for name in ("samples/00.wav", "samples/01.wav"):
        assert read_audio(out / name, 8000, 1).shape == (1, 1600)
    assert sorted(file.name for file in (out / "validation-samples").iterdir()) == [
        f"{name}-{step:06d}.wav" for name in ("primary", "secondary") for step in (2, 4)
    ]
    pipeline = codecdiff.load(out / "model")
    made = pipeline(["a tone", ""], audio_length_in_s=0.2).audios
    heard = read_audio(out / "samples" / "00.wav", 8000, 1)
    assert (made[0] - heard).abs().max() < 1e-3
    reported = " ".join(capsys.readouterr().err.split())
    assert re.search(
        r"primary: step 2 of 4, loss [\d.]+, validation loss [\d.]+ \(normalized [\d.]+; predicting zero = 1\), "
        r"[\d.e-]+ s per step, [\d.e+]+ crops/s, \d+ s left, [\d.]+ GB",
        reported,
    )
    before = (out / "store" / "header.json").stat().st_mtime_ns
    run("train.max_train_steps=6")
    assert (steps(out, "primary"), steps(out, "secondary")) == ([2, 4, 6], [2, 4, 6])
    assert "previously finished at step 4; continuing to step" in capsys.readouterr().err
    assert (out / "store" / "header.json").stat().st_mtime_ns == before
    run("train.max_train_steps=6")
    assert steps(out, "primary") == [2, 4, 6]


@pytest.mark.parametrize("order", [("primary", "secondary"), ("secondary", "primary")])
def test_stages_may_be_trained_one_by_one_in_any_order(
    run: Run, order: tuple[str, str], recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Path] = []
    monkeypatch.setattr(recipe.training, "call_run_end_hooks", ended.append)
    out = run(f"stage={order[0]}", "train.validation_steps=4")
    assert not ended
    assert not (out / "model" / order[1]).exists()
    assert not (out / "samples").exists()
    run(f"stage={order[1]}", "train.validation_steps=4")
    assert ended == [out]
    assert steps(out, "primary") == steps(out, "secondary") == [2, 4]
    assert (out / "samples" / "01.wav").exists()
    assert (out / "validation-samples" / "primary-000004.wav").exists()
    assert (out / "validation-samples" / "secondary-000004.wav").exists() == (order[0] == "primary")


def test_one_job_or_two_make_the_same_model(run: Run, recipe: ModuleType, tmp_path: Path) -> None:
    together = run("seed=3")
    run("seed=3", f"output={tmp_path / 'apart'}", "stage=secondary")
    run("seed=3", f"output={tmp_path / 'apart'}", "stage=primary")
    one, two = (codecdiff.load(folder / "model").stages for folder in (together, tmp_path / "apart"))
    for a, b in zip(one, two, strict=True):
        assert all((x == y).all() for x, y in zip(a.denoiser.parameters(), b.denoiser.parameters(), strict=True))


def test_it_trains_without_text_and_in_other_patterns(run: Run) -> None:
    out = run(
        "conditioner=null",
        "splitter.stages=0|1-2|3",
        "train.max_train_steps=2",
        "denoiser.layers=[none]",
        "prompts=[]",
    )
    pipeline = codecdiff.load(out / "model")
    assert pipeline.conditioner is None
    assert (
        json.loads((out / "samples" / "metadata.jsonl").read_text())["text"] == ""
    )  # captions are not prompts of a model that reads no text
    assert [stage.name for stage in pipeline.stages] == ["stage1", "stage2", "stage3"]
    assert (out / "samples" / "00.wav").exists()


def test_a_stage_may_be_trained_otherwise(run: Run) -> None:
    out = run(
        "stages.secondary.train.max_train_steps=2",
        "stages.secondary.denoiser.width=8",
        "stages.primary.sampling.scheduler=euler",
    )
    assert (steps(out, "primary"), steps(out, "secondary")) == ([2, 4], [2])
    primary, secondary = codecdiff.load(out / "model").stages
    assert (primary.denoiser.arguments["width"], secondary.denoiser.arguments["width"]) == (16, 8)
    assert (primary.sampling.scheduler, secondary.sampling.scheduler) == ("euler", "ddim")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=tertiary"], r"No stage 'tertiary'\. This pattern has: primary, secondary"),
        (["stages.third.train.max_train_steps=3"], r"No stage 'third'"),
        (["splitter.stages=0|2-3"], "misses level 1"),
        (["sampling.scheduler=hune"], "Unknown scheduler 'hune'"),
        (["sampling.num_inference_steps=101"], "expected 1 to 100"),
        (["diffusion.beta_schedule=cosine"], "Unknown beta_schedule 'cosine'"),
        (["codec.name=dacc"], "Did you mean 'dac'"),
        (["train.crop_seconds=0.0001"], "crop_seconds = 0.0001: expected at least 0.001"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_step(run: Run, overrides: list[str], message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        run(*overrides)


def test_a_place_that_cannot_be_written_is_refused_before_anything(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file' cannot be written to \(Not a directory\)\. Choose another folder"):
        run(f"output={tmp_path}/file/out")


def test_another_model_is_not_overwritten(run: Run) -> None:
    run("train.max_train_steps=1")
    with pytest.raises(ValueError, match=r"holds another model: splitter.* there, .* here; stages is"):
        run("splitter=parallel")
    with pytest.raises(ValueError, match=r"another stage in training: denoiser.* there, .* here"):
        run("train.max_train_steps=2", "denoiser.width=8")


def test_a_model_keeps_its_codec(run: Run) -> None:
    pytest.importorskip("codecdiff_starter")
    run("train.max_train_steps=1")
    with pytest.raises(ValueError, match=r'model: codec\.name is "dac" there, "starter" here\. Use another output'):
        run("codec.name=starter")


def test_errors_are_one_line(settings: Path) -> None:
    command = [sys.executable, str(RECIPE), "--config", str(settings), "train.max_train_stpes=3"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr.startswith("Unknown setting 'train.max_train_stpes'.")
    assert "Did you mean 'max_train_steps'?" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_two_processes_train_one_model(settings: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(RECIPE)]
    subprocess.run([*command, "--config", str(settings)], check=True, capture_output=True)
    out = settings.parent / "out"
    assert (steps(out, "primary"), steps(out, "secondary")) == ([2, 4], [2, 4])
    assert codecdiff.load(out / "model")("", audio_length_in_s=0.1).audios.isfinite().all()
    files = [out / "model" / stage / "model.safetensors" for stage in ("primary", "secondary")]
    whole = [file.read_bytes() for file in files]
    forget_last_checkpoint(out / "model" / "secondary")
    subprocess.run([*command, "--config", str(settings)], check=True, capture_output=True)
    assert steps(out, "secondary") == [2, 4]
    assert [file.read_bytes() for file in files] == whole


def forget_last_checkpoint(stage: Path) -> None:
    """Leave a stage as if it had been killed after step 2."""
    shutil.rmtree(stage / "training" / "step-000004")
    for name in ("stage.json", "model.safetensors", "log.jsonl"):
        (stage / name).unlink()  # it may be another name of a file of step 4
        shutil.copy(stage / "training" / "step-000002" / name, stage / name)


def test_sharded_weights_are_those_of_one_process(settings: Path, run: Run, tmp_path: Path) -> None:
    documented = re.findall(r"```yaml\n(.*?)```", SCALING.read_text(encoding="utf-8"), re.DOTALL)
    (shown,) = (text for text in map(yaml.safe_load, documented) if text.get("distributed_type") == "FSDP")
    launch = tmp_path / "fsdp.yaml"
    launch.write_text(yaml.safe_dump({**shown, "num_processes": 2, "mixed_precision": "no"}))
    both = [f"stages.secondary.denoiser.{word}" for word in ("name=dit", "width=16", "depth=2", "heads=2")]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch)]
    command += ["--main_process_port=0", str(RECIPE), "--config", str(settings), *both, f"output={tmp_path / 'shared'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    shared, alone = tmp_path / "shared", run(*both, "train.train_batch_size=4")
    for stage in ("primary", "secondary"):
        assert steps(shared, stage) == [2, 4]
        for name in ("model.safetensors", "training/step-000004/state.safetensors"):
            expected, tensors = (load_file(out / "model" / stage / name) for out in (alone, shared))
            torch.testing.assert_close(tensors, expected, rtol=1e-4, atol=5e-5)  # weights move by 1e-3 in a step
        assert any((tensor != 0).any() for name, tensor in tensors.items() if name.endswith("exp_avg_sq"))
        rows = [training.read_logs(out / "model", [stage])[stage][-1] for out in (alone, shared)]
        assert rows[1]["validation_loss"] == pytest.approx(rows[0]["validation_loss"], rel=1e-5)
        assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-4)
    audios = [codecdiff.load(out / "model")("", audio_length_in_s=0.1, seed=1).audios for out in (alone, shared)]
    assert audios[0].shape == audios[1].shape
    lock = json.loads((shared / "model" / "run.lock").read_text())
    assert [record["environment"]["sharded"] for record in lock["runs"]] == [True] * len(lock["runs"])
    before = (shared / "model" / "secondary" / "model.safetensors").read_bytes()
    forget_last_checkpoint(shared / "model" / "secondary")
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert (shared / "model" / "secondary" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_other_ways_to_divide_weights_are_refused(kind: str) -> None:
    accelerator: Any = SimpleNamespace(state=None, distributed_type=DistributedType(kind), is_fsdp2=False)
    with pytest.raises(ConfigError, match=rf"accelerate is set to {kind}, .* FSDP with fsdp_version 2"):
        set_up_sharding(accelerator)


CONFIGS = [file for file in (RECIPE.parent / "configs").glob("*.yaml") if not file.name.startswith("compare")]


@pytest.mark.parametrize("file", sorted(CONFIGS), ids=lambda file: file.name)
def test_every_configuration_that_is_shipped_can_be_read(recipe: ModuleType, file: Path) -> None:
    if file.stem in ("adapter", "distill"):
        recipe = importlib.import_module(f"codecdiff.recipes.{file.stem}")
    experiment = config.load_config(recipe.Experiment, file)
    assert (experiment.output != type(experiment).model_fields["output"].default) == (file.stem == "paper")
    with pytest.raises(ConfigError, match="Unknown setting 'nothing'"):
        config.load_config(recipe.Experiment, file, ["nothing=1"])


def test_damaged_weights_are_trained_again_from_the_checkpoint_before(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run()
    files = [out / "model" / stage / "model.safetensors" for stage in ("primary", "secondary")]
    whole = [file.read_bytes() for file in files]
    for file, contents in zip(files, whole, strict=True):
        file.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))  # in place: the newest checkpoint is the same file
    run()
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("Skipped a damaged checkpoint.") == 2
    assert [file.read_bytes() for file in files] == whole
    assert (steps(out, "primary"), steps(out, "secondary")) == ([2, 4], [2, 4])


def test_it_says_when_nothing_is_held_out(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("data.validation_fraction=0", "stage=primary", "train.max_train_steps=1")
    assert "No track is left for validation" in " ".join(capsys.readouterr().err.split())
    run("stage=secondary", "train.max_train_steps=1")
    assert "No track" not in capsys.readouterr().err


def test_a_stage_may_have_its_own_diffusion_and_projections_are_a_target(run: Run) -> None:
    flow = ["diffusion.prediction_type=flow", "sampling.scheduler=heun"]
    out = run("target=continuous", *(f"stages.secondary.{word}" for word in flow), "train.snr_gamma=5")
    model = codecdiff.load(out / "model")
    assert [prediction_type_of(stage.train_scheduler) for stage in model.stages] == ["v_prediction", "flow"]
    assert [stage.train_scheduler.config.num_train_timesteps for stage in model.stages] == [100, 100]
    assert model.target == "continuous"
    assert model("a tone", audio_length_in_s=0.1).audios.isfinite().all()
    with pytest.raises(ValueError, match=r"target is .* there, .* here"):
        run(*(f"stages.secondary.{word}" for word in flow), "train.snr_gamma=5")


def test_a_stage_may_start_from_another_of_this_model_or_of_another(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run("stages.secondary.start_from=primary")
    assert re.search(r"secondary starts with [\d,]+ of [\d,]+ weights of primary; randomly", capsys.readouterr().err)
    told = codecdiff.load(out / "model").stages[1].facts["start_from"]
    assert told["stage"] == "primary"
    assert 0.9 < told["copied"] / told["total"] < 1
    source = out / "model" / "primary"
    run(f"output={tmp_path / 'warm'}", "stage=primary", f"stages.primary.start_from={source}")
    (first, *_), (last, *_) = (losses(folder) for folder in (tmp_path / "warm", out))
    assert first < last
    file = tmp_path / "warm" / "model" / "primary" / "stage.json"
    assert str(tmp_path) not in json.dumps(json.loads(file.read_text())["training"]["start_from"])
    shutil.rmtree(out)
    run(
        f"output={tmp_path / 'warm'}", "stage=primary", f"stages.primary.start_from={source}", "train.max_train_steps=6"
    )
    assert "previously finished at step 4; continuing to step" in capsys.readouterr().err


DIT_WORDS = [f"denoiser.{word}" for word in ("name=dit", "width=32", "depth=1", "heads=2", "patch=2")]
FLOW = [
    "diffusion.prediction_type=flow",
    "sampling.scheduler=heun",
    "sampling.num_inference_steps=3",
    "sampling.guidance_scale=1",
]
PATTERNS = {  # overrides, and the denoiser, width, prediction, sampler, steps and guidance of every stage
    "parallel": (["splitter=parallel"], [("unet", 16, "v_prediction", "ddim", 2, 3.0)]),
    "delayed": (
        ["splitter.name=delayed", "splitter.delay=2", *(f"stages.stage1.{word}" for word in [*DIT_WORDS, *FLOW])],
        [("dit", 32, "flow", "heun", 3, 1.0)],
    ),
    "flattened": (
        ["splitter=flattened", "stages.stage1.denoiser.width=8", "stages.stage1.sampling.scheduler=ddpm"],
        [("unet", 8, "v_prediction", "ddpm", 2, 3.0)],
    ),
    "coarse-first": (
        [f"stages.secondary.{word}" for word in [*DIT_WORDS, *FLOW]],
        [("unet", 16, "v_prediction", "ddim", 2, 3.0), ("dit", 32, "flow", "heun", 3, 1.0)],
    ),
    "0|1-2|3": (
        [
            "splitter.stages=0|1-2|3",
            "stages.stage1.denoiser.width=8",
            *(f"stages.stage2.{word}" for word in [*DIT_WORDS, *FLOW]),
            "stages.stage3.start_from=stage1",
            "stages.stage3.denoiser.width=8",
            "stages.stage3.diffusion.prediction_type=epsilon",
            "stages.stage3.sampling.guidance_scale=2",
            "stages.stage3.train.max_train_steps=2",
        ],
        [
            ("unet", 8, "v_prediction", "ddim", 2, 3.0),
            ("dit", 32, "flow", "heun", 3, 1.0),
            ("unet", 8, "epsilon", "ddim", 2, 2.0),
        ],
    ),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_planned_trained_sampled_and_edited(
    pattern: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words, wanted = PATTERNS[pattern]
    run("--plan", *words)
    assert len(capsys.readouterr().out.split("parameters")[1].splitlines()[0].split()) == len(wanted)
    out = run(*words, "train.max_train_steps=2", "prompts=[a tone]")
    model = codecdiff.load(out / "model")
    assert (out / "samples" / "00.wav").exists()
    assert [described(stage) for stage in model.stages] == wanted
    source = EditMask.from_audio(model.codec, read_audio(out / "samples" / "00.wav", 8000, 1)[None])
    for edit in (Refine(keep=(0,)), Inpaint(regions=((0.05, 0.1),)), Extend(seconds=0.1), Restore(levels=3)):
        known = edit.apply(source, model.codec)
        (codes,) = model.generate_codes(["a tone"], known.frames, edit=known)
        assert torch.equal(codes[known.keep_mask], known.codes[known.keep_mask])
        assert not torch.equal(codes, known.codes)
    (codes,) = model.generate_codes(["a tone"], source.frames, edit=Vary(strength=0.5).apply(source, model.codec))
    assert codes.shape == source.codes.shape


def described(stage: Stage) -> tuple[Any, ...]:
    spec, prediction = stage.to_config(), prediction_type_of(stage.train_scheduler)
    denoiser = spec["denoiser"]
    return (
        denoiser["name"],
        denoiser["width"],
        prediction,
        stage.sampling.scheduler,
        stage.sampling.num_inference_steps,
        stage.sampling.guidance_scale,
    )


def test_a_plan_is_printed_and_nothing_else_is_done(
    run: Run, recipe: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe.training, "new_accelerator", None)
    out = run("--plan", "--devices", "2", "--device", "a100", "stages.secondary.train.max_train_steps=8")
    assert not out.exists()
    told = capsys.readouterr().out
    rows = {line[:26].strip(): line[26:].split() for line in told.splitlines()}
    shapes: list[dict[str, Any]] = [{"channels": 8, "context_channels": 0}, {"channels": 24, "context_channels": 8}]
    unets = [config.build("denoisers", UNET, condition_widths={"text": 128}, **shape) for shape in shapes]
    counts = [sum(parameter.numel() for parameter in unet.parameters()) for unet in unets]
    assert rows["parameters"] == [f"{count:,}" for count in counts]
    assert (rows["crops in a step"], rows["steps"], rows["frames of a crop"]) == (["4", "4"], ["4", "8"], ["20", "20"])
    epoch = int(rows["crops in an epoch"][0])
    assert [float(cell) for cell in rows["epochs"]] == pytest.approx([16 / epoch, 32 / epoch], rel=0.01)
    work = [4 * float(rows["TFLOP of a step, a device"][0]), 8 * float(rows["TFLOP of a step, a device"][1])]
    rate = 156 * plan.UTILIZATION[False]  # TFLOP/s
    assert [float(cell) for cell in rows["time"][::2]] == pytest.approx([tera / rate for tera in work], abs=1)
    assert rows["time"][1::2] == ["s", "s"]
    assert "TOO MUCH" not in told


def test_a_plan_is_for_the_precision_that_accelerate_is_set_to(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for precision, overrides, named in (("bf16", [], "bf16"), ("bf16", ["mixed_precision=no"], "tf32")):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        run("--plan", "--device", "h100", "stage=primary", *overrides)
        assert f"TFLOP/s in {named})" in capsys.readouterr().out


def test_a_value_on_the_command_line_trains_every_stage(run: Run, settings: Path) -> None:
    spec = yaml.safe_load(settings.read_text())
    settings.write_text(yaml.safe_dump({**spec, "stages": {"secondary": {"train": {"max_train_steps": 6}}}}))
    out = run("train.max_train_steps=2")
    assert (steps(out, "primary"), steps(out, "secondary")) == ([2], [2])


def test_a_plan_of_many_stages_has_a_row_for_each(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MAX_COLUMNS", 1)
    monkeypatch.setattr(plan, "WIDE", 10)
    run("--plan", "--device", "a100", "stages.secondary.train.max_train_steps=8")
    printed = capsys.readouterr().out
    titles, *rows = lines = printed.split("\n\n")[1].splitlines()
    assert "  crops in a step  crops in an epoch  steps  epochs  " in titles
    assert [(row.split()[0], row.split()[5]) for row in rows] == [("primary", "4"), ("secondary", "8")]
    assert len({len(line) for line in lines}) == 1
    assert "More than 10 numbers in a frame: secondary. A network learns" in printed


def test_a_plan_says_what_does_not_fit(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plan.DEVICES, "h100", plan.Device(0, 989.4, 494.7))
    run("--plan", "--device", "h100", "stage=secondary")
    assert "TOO MUCH for the memory of one h100: secondary. Lower train.train_batch_size." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "h900"], r"No device 'h900' to plan for\. Devices: cpu, h200, h100, "),
        (["--utilization", "0"], r"Invalid --utilization=0\.0: expected a number above 0"),
        (["--hours", "nan"], r"Invalid --hours=nan: expected a number above 0"),
        (["--devices", "0"], r"0 is not in the range"),
    ],
)
def test_a_plan_for_nothing_is_refused(run: Run, words: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run("--plan", *words)


def test_nothing_of_one_stage_is_kept_while_the_next_is_trained(
    run: Run, recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Watched(StageTrainer):
        def __init__(self, stage: Any, *args: Any, **options: Any):
            gc.collect()
            assert not [reference for reference in made if reference()]
            super().__init__(stage, *args, **options)
            made.append(weakref.ref(self.denoiser))

    monkeypatch.setattr("codecdiff.training.experiment.StageTrainer", Watched)
    run()
    assert len(made) == 2


JOINED = """[
  {name: cached, folder: %s, conditioner: {name: words}},
  {name: numeric, fields: {tempo: {low: 40, high: 220}, seconds: {low: 0, high: 4}}, width: 16}
]"""


def test_joined_conditions_train_from_the_command_line_and_are_asked_for(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(music, tmp_path / "music")
    rows = [json.loads(line) for line in (own / "metadata.jsonl").read_text().splitlines()]
    rows = [{**row, "tempo": 60 + 20 * i} for i, row in enumerate(rows[:-1])] + rows[-1:]  # one has none
    (own / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"data.audio={own}", "conditioner.name=joined", f"conditioner.conditioners={JOINED % (tmp_path / 'kept')}"]
    more = ["denoiser.layers=[tempo,text]", "denoiser.vector=seconds", "conditioner.conditioners.numeric.width=8"]
    out = run(*words, *more, "sampling.guidance_scale.text=3", "sampling.guidance_scale.tempo=1.5")
    spec = json.loads((out / "model" / "codecdiff.json").read_text())["conditioner"]
    assert [part["name"] for part in spec["conditioners"]] == ["words", "numeric"]
    assert spec["conditioners"][1]["width"] == 8
    assert str(tmp_path) not in json.dumps(spec)  # the cache's folder is this machine's
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 6 + 2
    stages = codecdiff.load(out / "model").stages
    assert [stage.sampling.guidance_scale for stage in stages] == 2 * [{"text": 3.0, "tempo": 1.5}]

    def made(*words: str) -> torch.Tensor:
        result = CliRunner().invoke(
            app,
            [
                "generate",
                "a tone",
                "-o",
                str(out / "a.wav"),
                "--force",
                "--seed",
                "0",
                "--model",
                str(out / "model"),
                *words,
            ],
        )
        assert result.exit_code == 0, result.output
        return read_audio(out / "a.wav", 8000, 1)

    slow, fast = (made("--seconds", "0.2", "--field", f"tempo={tempo}") for tempo in (60, "180"))
    assert slow.shape == (1, 1600)
    assert not torch.equal(slow, fast)
    assert torch.equal(made("--seconds", "0.2", "--field", "tempo=60"), slow)
    led = made("--seconds", "0.2", "--field", "tempo=60", "--guidance", "tempo=6", "--guidance", "text=1")
    assert not torch.equal(led, slow)
    refused = CliRunner().invoke(
        app, ["generate", "", "-o", "b.wav", "--model", str(out / "model"), "--guidance", "key=2"]
    )
    assert "Unknown condition 'key' in guidance_scale" in refused.output.replace("\n", " ")


def test_a_model_is_trained_again_bit_for_bit_or_it_is_said_what_differs(
    run: Run, codec_spec: dict[str, Any], music: Path, tmp_path: Path
) -> None:
    out = run()
    lock, model = out / "model" / "run.lock", f"codec.model={codec_spec['model']}"
    text = lock.read_text()
    assert not any(place in text for place in (str(tmp_path.parent), codec_spec["model"], str(music), platform.node()))
    (record,) = (spec := json.loads(text))["runs"]
    assert record["seeds"] == {"seed": 0, "split_seed": 0}
    assert record["places"] == ["codec.model", "data.audio"]
    assert record["environment"]["torch"] == torch.__version__
    assert record["configuration"]["train"]["ema_decay"] > 0  # the defaults too
    run()
    assert lock.read_text() == text
    pipeline = codecdiff.load(out / "model")
    pipeline.save_pretrained(tmp_path / "same")
    assert (tmp_path / "same" / "run.lock").read_text() == text
    pipeline.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half" / "run.lock").exists()  # no training yields these

    def replay(*words: str | Path, code: int = 1) -> str:
        result = CliRunner().invoke(app, ["replay", *map(str, words)])
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    total = sum(map(len, spec["weights"].values()))
    equal = f"All {total} tensors of codec, primary, secondary are bit-equal."
    assert equal in replay(out, model, code=0)
    shutil.copy(lock, tmp_path / "run.lock")
    kept = tmp_path / "kept"
    assert equal in replay(tmp_path / "run.lock", model, "--audio", music, "-o", kept, code=0)  # the lock alone
    weights = "model/secondary/model.safetensors"
    assert (kept / weights).read_bytes() == (out / weights).read_bytes()
    assert "holds the model that is replayed" in replay(out, model, "-o", out)

    said = replay(out, model, "seed=1")
    assert re.search(rf"\d+ of {total} tensors of codec, primary, secondary differ\. Different: primary\.\w+", said)
    assert "Not as it was: seed is 0 there, 1 here." in said
    assert "data.captions" not in said
    other = shutil.copytree(music, tmp_path / "music")
    (other / "metadata.jsonl").write_text((music / "metadata.jsonl").read_text().replace("tone 3", "tone three"))
    assert "is other music than" in (said := replay(out, model, "--audio", other))
    assert "Different are: captions; it has 6 tracks, not 6." in said
    assert "does not record where codec.model was. Say where it is here: codec.model=PATH." in replay(out)
    assert "The music of" in (said := replay(tmp_path / "run.lock", model))
    assert "is missing, 6 tracks: no store is beside the model. Name it: --audio FOLDER" in said


def test_a_record_says_what_changed_and_what_it_cannot_vouch_for(
    run: Run, codec_spec: dict[str, Any], tmp_path: Path
) -> None:
    def replay(code: int = 1) -> str:
        words = ["replay", str(tmp_path / "out"), f"codec.model={codec_spec['model']}"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    out = run("stage=primary", "train.max_train_steps=2")
    assert "bit-equal" in replay(0)
    run("stage=secondary", "train.max_train_steps=2", "train.learning_rate=1e-2")
    assert [record["stages"] for record in json.loads((out / "model/run.lock").read_text())["runs"]] == [
        ["primary"],
        ["secondary"],
    ]
    assert "bit-equal" in replay(0)
    run("stage=primary", "train.learning_rate=1e-4")
    assert "It was resumed: primary at step 2: train.max_train_steps is 2 there, 4 here." in (said := replay())
    assert "primary at step 2: train.learning_rate is 0.001 there, 0.0001 here." in said
    assert "secondary." not in said.partition("Different: ")[2]
    lock = out / "model" / "run.lock"
    lock.write_bytes(lock.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    assert "run.lock' is damaged" in replay()
    lock.unlink()
    assert "No run.lock at" in replay()
