"""Distilled stages: where a student is led, its training, and how it can be sampled."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from codecdiff.recipes.distill import write_other_stages  # pyright: ignore[reportMissingImports]
from oracle import NOTHING, Oracle, run, sample_plain, trained
from small import lively, noise, rewrite
from torch import Tensor
from typer.testing import CliRunner

import codecdiff
from codecdiff import Denoiser, Inpaint, Pipeline
from codecdiff.cli.main import app
from codecdiff.config import DataConfig, SamplingConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.diffusion.distillation import Distillation, Segments, guided_teacher, student_fraction
from codecdiff.diffusion.loss import StageInput, prediction_target
from codecdiff.diffusion.noise_schedule import set_timesteps
from codecdiff.diffusion.sampling import SamplingInput, sample_stage
from codecdiff.diffusion.schedulers import sampling_scheduler
from codecdiff.errors import InvalidValue
from codecdiff.pipeline.checkpoint import save_stage
from codecdiff.pipeline.provenance import GenerationRequest
from codecdiff.rng import generator
from codecdiff.training import StageData, StageTrainer
from codecdiff.training.distillation import DistillationTrainer, DistillConfig

Make = Callable[..., Pipeline]
SHORT: Any = {"audio_length_in_s": 0.2, "seed": 3, "loudness": "off"}
PREDICTIONS = {
    "v_prediction": trained(),
    "zero-snr": trained(zero_terminal_snr=True),
    "epsilon": trained("epsilon", beta_schedule="linear"),
    "sample": trained("sample"),
    "flow": trained("flow"),
}


class Student(Denoiser):
    """A denoiser that has learned all that a distillation teaches."""

    channels, context_channels, condition_widths = 2, 0, {}

    def __init__(self, distillation: Distillation, teacher: Oracle):
        super().__init__()
        self.distillation, self.teacher = distillation, teacher

    def forward(self, noisy: Tensor, timestep: Tensor, context: Any, condition: Any) -> Tensor:
        segments, teacher = self.distillation.segments, self.teacher
        place = segments.place(timestep.long())
        x_start = self.distillation.x_start(
            noisy, place, lambda x, t: teacher(x, t, None, NOTHING), lambda x, t: self(x, t, None, NOTHING)
        )
        alpha, sigma = segments.levels(place, noisy)
        return prediction_target(teacher.prediction, x_start, (noisy - alpha * x_start) / sigma, alpha, sigma)


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize(("steps", "size", "fraction"), [(4, 3, 0.45), (2, 4, 0.0), (1, 5, 0.2)])
def test_a_perfect_student_goes_where_its_teacher_does(name: str, steps: int, size: int, fraction: float) -> None:
    scheduler = PREDICTIONS[name]
    solver, oracle = "euler" if name == "flow" else "ddim", Oracle(scheduler)
    segments = Segments.of(scheduler, steps, size, fraction)
    student = Student(Distillation(scheduler, segments, 1), oracle)
    own = sampling_scheduler(scheduler, solver, "even", student_fraction(steps, size, fraction))
    few = sample_plain(student, own, (2, 50), [generator("test", 1)], steps)
    assert torch.allclose(few, run(oracle, solver, steps * size, (2, 50), stop_at=fraction), atol=2e-3)


@pytest.mark.parametrize("name", ["v_prediction", "sample", "flow"])
@pytest.mark.parametrize("fraction", [0.0, 0.45])
def test_the_teacher_solves_as_dpm_solver_does(name: str, fraction: float) -> None:
    scheduler, oracle = PREDICTIONS[name], Oracle(PREDICTIONS[name])
    student = Student(Distillation(scheduler, Segments.of(scheduler, 1, 6, fraction), 6), oracle)
    own = sampling_scheduler(scheduler, "euler" if name == "flow" else "ddim", "even", 1.0)
    few = sample_plain(student, own, (2, 50), [generator("test", 1)], 1)
    atol = 5e-3 if name == "flow" else 1e-3  # that of diffusers starts a flow at 1 - 1e-4
    assert torch.allclose(few, run(oracle, "dpm++2m", 6, (2, 50), stop_at=fraction), atol=atol)


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.45, 0.9])
def test_the_student_is_evaluated_where_it_was_trained(fraction: float) -> None:
    for steps in (1, 2, 4, 7, 8):
        for size in (1, 3, 5):
            segments = Segments.of(PREDICTIONS["v_prediction"], steps, size, fraction)
            own = sampling_scheduler(
                PREDICTIONS["v_prediction"], "ddim", "even", student_fraction(steps, size, fraction)
            )
            set_timesteps(own, steps)
            assert segments.timesteps[::size].tolist() == own.timesteps.tolist()
            assert (segments.timesteps.diff() < 0).all()


def test_without_steps_of_its_own_the_teacher_is_its_guided_prediction(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    stage, x = pipe.stages[1], noise(2, pipe.stages[1].denoiser.channels, 9)
    assert pipe.conditioner
    context = noise(2, stage.denoiser.context_channels, 9, seed=1)
    condition = pipe.conditioner.encode(["tone 1", "tone 3"])
    sampling = SamplingConfig(scheduler="ddim", num_inference_steps=1, guidance_scale=3.0, guidance_interval=(0.5, 1))
    inputs = StageInput([0, 1], x, torch.ones_like(x), context, condition)
    distillation = Distillation(stage.train_scheduler, Segments.of(stage.train_scheduler, 1, 2, 0.0), 0)
    teacher = guided_teacher(stage.denoiser, stage.train_scheduler, sampling, 3.0, inputs)
    with torch.no_grad():
        found = distillation.x_start(x, torch.zeros(2, dtype=torch.long), teacher, teacher)
        later = teacher(x, torch.tensor([20, 20]))
    expected = sample_stage(
        stage.denoiser,
        sampling_scheduler(stage.train_scheduler, "ddim"),
        SamplingInput(x, [generator("test", 1)] * 2, context, condition),
        num_inference_steps=1,
        guidance_scale=3.0,
        sampling=sampling,
    )
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert torch.allclose(later, stage.denoiser(x, torch.tensor([20, 20]), context, condition), atol=1e-5)


# Training


@pytest.fixture
def pipe(make_pipeline: Make, tmp_path: Path) -> Pipeline:
    """A model of two stages, loaded from a folder."""
    make_pipeline().save_pretrained(tmp_path / "model")
    return codecdiff.load(tmp_path / "model")


def new_trainer(pipe: Pipeline, own: DistillConfig | None = None, i: int = 1, **options: Any) -> DistillationTrainer:
    settings = {"learning_rate": 3e-3, "warmup_steps": 2, "max_train_steps": 4, "ema_decay": 0.9, "loss": "l2"}
    train = TrainConfig(**{**settings, **options})
    own = own or DistillConfig(teacher_steps=12, guidance_fraction=0.5)
    return DistillationTrainer(pipe, i, own, SamplingConfig(), train, facts={"seed": 0})


def data_of(pipe: Pipeline, store: CodeStore) -> StageData:
    train = TrainConfig(train_batch_size=4, crop_seconds=0.1)
    return StageData(store, pipe, 1, train, DataConfig(validation_fraction=0.34), num_validation_crops=16)


def distilled(pipe: Pipeline, folder: Path) -> Pipeline:
    """Write a model whose second stage counts as distilled, without training it."""
    write_other_stages(pipe, [1], folder)
    save_stage(folder, new_trainer(pipe).ema_stage())
    return codecdiff.load(folder)


@pytest.mark.parametrize("solver_steps", [1, 3])
def test_resuming_ends_with_the_same_bits(pipe: Pipeline, store: CodeStore, tmp_path: Path, solver_steps: int) -> None:
    own = DistillConfig(teacher_steps=12, guidance_fraction=0.5, solver_steps=solver_steps)
    data, whole = data_of(pipe, store), new_trainer(pipe, own)
    losses = [whole.step(data.step(step)) for step in range(4)]
    first = new_trainer(pipe, own)
    assert [first.step(data.step(step)) for step in range(3)] == losses[:3]
    first.save(tmp_path / "run")
    second = new_trainer(pipe, own)
    assert second.resume(tmp_path / "run")
    assert second.step(data.step(3)) == losses[3]
    for a, b in ((whole.denoiser, second.denoiser), (whole.ema.module, second.ema.module)):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    for other in (own.model_copy(update={"steps": 2}), own.model_copy(update={"teacher_steps": 16})):
        with pytest.raises(InvalidValue, match=r"distilled\.(steps|teacher_steps) is \d+ there, \d+ here"):
            new_trainer(pipe, other).resume(tmp_path / "run")


def test_the_teacher_stays_and_the_first_steps_learn_guidance_alone(pipe: Pipeline, store: CodeStore) -> None:
    data, trainer = data_of(pipe, store), new_trainer(pipe)
    before = deepcopy(pipe.stages[1].denoiser.state_dict())
    calls: list[int] = []
    teacher: Any = trainer.teacher.denoiser
    handle = teacher.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    for step in range(3):
        trainer.step(data.step(step))
    handle.remove()
    assert calls == [8, 8, 8, 8, 8]  # guided rows of 4 crops: 1, 1 and then 3 steps of the teacher
    assert all(torch.equal(before[name], t) for name, t in pipe.stages[1].denoiser.state_dict().items())
    assert not all(torch.equal(before[name], t) for name, t in trainer.denoiser.state_dict().items())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("network", "kind", "solver_steps"),
    [("unet", "v_prediction", 3), ("unet", "v_prediction", 1), ("dit", "flow", 3)],
)
def test_a_student_comes_closer_to_the_teacher_than_few_steps_of_it_do(
    make_pipeline: Make, store: CodeStore, network: str, kind: str, solver_steps: int
) -> None:
    pipe = make_pipeline()
    stage = pipe.stages[1]
    if network == "dit":
        spec = {"name": "dit", "width": 32, "depth": 2, "heads": 2, "vector": None}
        stage.denoiser = lively(pipe.new_denoiser(1, spec))
    solver = "euler" if kind == "flow" else "dpm++2m"
    stage.train_scheduler = trained(kind, 100)
    stage.sampling = SamplingConfig(scheduler=solver, num_inference_steps=12, guidance_scale=4.0)
    learn = {"learning_rate": 3e-3, "warmup_steps": 2, "max_train_steps": 100, "ema_decay": 0.9, "loss": "l2"}
    teacher, data = StageTrainer(stage, TrainConfig(**learn)), data_of(pipe, store)
    for step in range(100):
        teacher.step(data.step(step))
    pipe.stages[1] = stage = teacher.ema_stage()
    own = DistillConfig(guidance_fraction=0.2, solver_steps=solver_steps)
    trainer = new_trainer(pipe, own, max_train_steps=150, learning_rate=1e-3)
    first = trainer.validation_loss(data.validation())[0]
    for step in range(150):
        trainer.step(data.step(step))
    student = trainer.ema_stage()
    assert trainer.validation_loss(data.validation())[0] < 0.7 * first
    (batch,) = data.validation()
    start = noise(*batch.x_start.shape, seed=5)

    def sample(stage: Any, **options: Any) -> Tensor:
        stage = stage.with_sampling(**options)
        inputs = SamplingInput(start, [generator("test", i) for i in range(len(start))], batch.context, batch.condition)
        sampling = stage.sampling
        return sample_stage(
            stage.denoiser.eval(),
            stage.scheduler,
            inputs,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
        )

    whole, few = sample(stage), sample(student)
    undistilled = sample(stage, num_inference_steps=4, guidance_scale=1.0)
    assert (few - whole).abs().mean() < 0.8 * (undistilled - whole).abs().mean()


# How a distilled stage can be sampled


def test_a_distilled_model_is_an_ordinary_one(pipe: Pipeline, tmp_path: Path) -> None:
    model = distilled(pipe, tmp_path / "few")
    sampling = model.stages[1].sampling
    assert (sampling.scheduler, sampling.num_inference_steps, sampling.guidance_scale) == ("ddim", 4, 1.0)
    assert model.stages[1].facts["distilled"]["model"] == pipe.fingerprint
    assert model.stages[0].sampling == pipe.stages[0].sampling
    out = model("a tone", **SHORT)
    for quality in ("paper", "balanced", "fast"):
        settings = model.generation_config.merge(quality=quality)
        assert model.sampled_stages(settings)[1].sampling == sampling
        assert model.num_timesteps or model.stages
    assert model.edit(out.audios[0], Inpaint(regions=((0.05, 0.1),)), "a tone").codes.shape == out.codes.shape
    long = model("a tone", audio_length_in_s=1.5, window_in_s=0.5, seed=1)
    assert long.audios.isfinite().all()
    model.save_pretrained(tmp_path / "copy")
    assert torch.equal(codecdiff.load(tmp_path / "copy")("a tone", **SHORT).codes, out.codes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 100}, "num_inference_steps=100 is not possible"),
        ({"guidance_scale": 3.0}, r"guidance_scale=3\.0 is not possible"),
        ({"guidance_scale": {"text": 2.0}}, r'guidance_scale={"text": 2\.0} is not possible'),
    ],
)
def test_other_steps_and_guidance_are_refused(
    pipe: Pipeline, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    model = distilled(pipe, tmp_path / "few")
    with pytest.raises(InvalidValue, match=f"Stage secondary was distilled to 4 steps of ddim without.*{message}"):
        model("a tone", **SHORT, **options)
    model("a tone", **SHORT, num_inference_steps=4, guidance_scale=1.0)


def test_other_schedulers_are_refused(pipe: Pipeline, tmp_path: Path) -> None:
    model = distilled(pipe, tmp_path / "few")
    with pytest.raises(InvalidValue, match='scheduler="unipc" is not possible'):
        model.stages[1].scheduler = "unipc"
    assert model.stages[1].sampling.scheduler == "ddim"
    model.stages[1].sampling.scheduler = "unipc"
    with pytest.raises(InvalidValue, match='scheduler="unipc" is not possible'):
        model("a tone", **SHORT)


def test_options_of_all_stages_become_those_of_the_others(make_pipeline: Make, tmp_path: Path) -> None:
    pipe = make_pipeline(generation_config=codecdiff.GenerationConfig(num_inference_steps=5, seed=7))
    pipe.presets = {"fast": {name: SamplingConfig(num_inference_steps=2) for name in pipe.stage_names}}
    pipe.save_pretrained(tmp_path / "model")
    model = distilled(codecdiff.load(tmp_path / "model"), tmp_path / "few")
    assert [stage.sampling.num_inference_steps for stage in model.stages] == [5, 4]
    assert model.stages[1].facts["distilled"]["teacher"]["num_inference_steps"] == 5
    assert model.generation_config.seed == 7
    steps = [
        s.sampling.num_inference_steps for s in model.sampled_stages(model.generation_config.merge(quality="fast"))
    ]
    assert steps == [2, 4]


def test_what_cannot_be_distilled(pipe: Pipeline, tmp_path: Path) -> None:
    assert pipe.folder
    with pytest.raises(InvalidValue, match="holds the model itself"):
        write_other_stages(pipe, [1], pipe.folder, dry_run=True)
    with pytest.raises(InvalidValue, match="Invalid steps=101: expected 1 to 100 for stage secondary"):
        new_trainer(pipe, DistillConfig(steps=101))
    model = distilled(pipe, tmp_path / "few")
    with pytest.raises(InvalidValue, match="distilled already, to 4 steps"):
        new_trainer(model)
    other = deepcopy(pipe)
    with torch.no_grad():
        next(other.stages[0].denoiser.parameters()).add_(1)
    with pytest.raises(InvalidValue, match="holds another stage than the model"):
        write_other_stages(other, [1], tmp_path / "few")
    assert codecdiff.load(tmp_path / "few").fingerprint == model.fingerprint


def test_a_stage_that_was_copied_in_part_is_copied_again(pipe: Pipeline, tmp_path: Path) -> None:
    model = distilled(pipe, tmp_path / "few")
    other = deepcopy(pipe)
    with torch.no_grad():
        next(other.stages[0].denoiser.parameters()).add_(1)
    (tmp_path / "few/primary/stage.json").unlink()  # as where a process was killed before it wrote that
    with pytest.raises(InvalidValue, match="holds another stage than the model"):
        write_other_stages(other, [1], tmp_path / "few")
    write_other_stages(pipe, [1], tmp_path / "few")
    assert codecdiff.load(tmp_path / "few").fingerprint == model.fingerprint


def test_a_strangers_description_of_a_distilled_stage_is_checked(pipe: Pipeline, tmp_path: Path) -> None:
    distilled(pipe, tmp_path / "few")
    file = tmp_path / "few" / "secondary" / "stage.json"
    spec = json.loads(file.read_text())
    for value in (4, {}, {"sampling": {"scheduler": "ddim"}}, {"sampling": spec["training"]}):
        rewrite(file, {**spec, "training": {**spec["training"], "distilled": value}})
        with pytest.raises(InvalidValue, match="distilled"):
            codecdiff.load(tmp_path / "few")


# The command line


@pytest.fixture
def words(pipe: Pipeline, music: Path, tmp_path: Path) -> list[str]:
    train = {"max_train_steps": 4, "train_batch_size": 2, "crop_seconds": 0.1, "checkpointing_steps": 2}
    lines = [f"train.{name}={value}" for name, value in train.items()]
    return ["distill", str(pipe.folder), *lines, f"data.audio={music}", f"output={tmp_path / 'run'}"]


def command(*words: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


@pytest.mark.integration
def test_distill_resume_generate_and_inspect(words: list[str], pipe: Pipeline, tmp_path: Path) -> None:
    assert pipe.folder
    before = {file: file.read_bytes() for file in pipe.folder.rglob("*") if file.is_file()}
    command(*words, "--stage", "secondary", "--steps", "2")
    assert len(list((tmp_path / "run" / "samples").glob("*.wav"))) > 0
    model = tmp_path / "run" / "model"
    for name in ("stage.json", "log.jsonl", "model.safetensors"):  # as if killed before they were first published
        (model / "secondary" / name).unlink()
    command(*words, "--stage", "secondary", "--steps", "2", "train.max_train_steps=6")
    log = [json.loads(line)["step"] for line in (model / "secondary" / "log.jsonl").read_text().splitlines()]
    assert log == [2, 4, 6]
    assert before == {file: file.read_bytes() for file in pipe.folder.rglob("*") if file.is_file()}
    assert "was distilled to" not in (message := command(*words, "--stage", "secondary", "--steps", "3", exit_code=1))
    assert "distilled.steps is 2 there, 3 here" in message

    out = str(tmp_path / "few.flac")
    command("generate", "a tone", "--model", str(model), "--seconds", "0.2", "--seed", "1", "-o", out)
    stages = GenerationRequest.from_file(Path(out)).stages
    assert (stages["secondary"].num_inference_steps, stages["secondary"].guidance_scale) == (2, 1.0)
    assert "holds the same samples" in command("inspect", out, "--model", str(model))
    refused = ["generate", "a tone", "--model", str(model), "--num-inference-steps", "100", "-o", out, "--force"]
    assert "Stage secondary was distilled to 2 steps" in command(*refused, exit_code=1)
    assert "distilled" in (model / "README.md").read_text()
    elsewhere = [f"output={tmp_path / 'adapter'}" if word.startswith("output=") else word for word in words[2:]]
    adapter = ["train", "--adapter", "lora", f"start_from={model}", *elsewhere]
    assert "secondary of" in (message := command(*adapter, exit_code=1))
    assert "was distilled, which training would undo" in message


def test_bad_words_are_refused_before_anything_is_written(
    words: list[str], pipe: Pipeline, make_pipeline: Make, tmp_path: Path
) -> None:
    for extra, message in {
        ("--stage", "third"): "No stage 'third'. This pattern has: primary, secondary",
        ("--steps", "101"): "Invalid steps=101: expected 1 to 100 for stage primary",
        ("distill.solver=2",): "distill.solver",
        ("sampling.scheduler=absent",): "Unknown scheduler 'absent'",
        (f"output={tmp_path}",): "holds the model itself",
    }.items():
        assert message in command(*words, *extra, exit_code=1)
    part = make_pipeline()
    part.stages = part.stages[:1]
    part.save_pretrained(tmp_path / "part")
    words[1] = str(tmp_path / "part")
    assert "Stage secondary of" in (message := command(*words, "--stage", "secondary", exit_code=1))
    assert "is not trained. Trained: primary. Train it first" in message
    assert not (tmp_path / "run").exists()
