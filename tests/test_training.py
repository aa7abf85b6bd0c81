"""Training of one stage: it learns, resumes bit for bit, and leaves no pickles."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from small import folder_as_version_0_1, noise, rewrite
from torch import Tensor

from codecdiff import Codec, Condition, Pipeline, training
from codecdiff.config import DataConfig, TrainConfig
from codecdiff.config.schema import SamplingConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import open_store
from codecdiff.diffusion.colored_noise import colored
from codecdiff.diffusion.loss import StageInput
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.errors import UserError
from codecdiff.files import write_safetensors
from codecdiff.pipeline.checkpoint import load_stage, save_stage
from codecdiff.pipeline.stage import Stage
from codecdiff.training.batch import StageData, stage_input
from codecdiff.training.trainer import StageTrainer

Make = Callable[..., Pipeline]


@pytest.fixture
def trainer_of(make_pipeline: Make) -> Callable[..., StageTrainer]:
    """Give a function that makes the trainer of a stage, always from the same weights."""

    def make(i: int = 1, **options: Any) -> StageTrainer:
        stage = make_pipeline().stages[i]
        stage.denoiser.requires_grad_(True)
        settings = {"learning_rate": 2e-3, "warmup_steps": 2, "max_train_steps": 40, "ema_decay": 0.9, **options}
        return StageTrainer(stage, TrainConfig(**settings))

    return make


@pytest.fixture
def data(make_pipeline: Make, store: CodeStore) -> StageData:
    train, data = TrainConfig(train_batch_size=4, crop_seconds=0.1), DataConfig(validation_fraction=0.34)
    return StageData(store, make_pipeline(), 1, train, data, num_validation_crops=32)


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(trainer: StageTrainer, data: StageData, until: int) -> list[float]:
    return [trainer.step(data.step(step)) for step in range(trainer.step_count, until)]


def test_a_row_of_the_log_has_losses_and_memory(trainer_of: Callable[..., StageTrainer], data: StageData) -> None:
    trainer = trainer_of()
    train(trainer, data, 1)
    row = trainer.validate(data.validation(), [1.0, 2.0], seconds=3.0)
    loss, zero = trainer.validation_loss(data.validation())
    assert row.pop("peak_memory") == pytest.approx(psutil.Process().memory_info().rss / 1e9, rel=0.5)
    assert row == {
        "step": 1,
        "loss": 1.5,
        "validation_loss": loss,
        "zero_predictor_loss": zero,
        "normalized_validation_loss": loss / zero,
        "learning_rate": trainer.learning_rate(0),
        "grad_norm": trainer.grad_norm,
        "seconds": 3.0,
    }
    assert 0 < trainer.grad_norm < 1e3


def test_the_log_says_how_much_of_a_known_peak_is_reached(trainer_of: Callable[..., StageTrainer]) -> None:
    trainer = trainer_of(train_batch_size=4, gradient_accumulation_steps=3)
    row = {"loss": 1.0, "validation_loss": 1.0, "normalized_validation_loss": 1.0, "peak_memory": 2.0}
    assert "2 s per step, 6 crops/s, 1 min 20 s left" in trainer.describe(row, 2.0)
    trainer.cost = (4 * 10**12, 16.0, 8.0)
    assert "6 crops/s, 2 TFLOP/s (25% of the peak), 1 min 20 s left" in trainer.describe(row, 2.0)


@pytest.mark.integration
def test_a_batch_can_be_learned(trainer_of: Callable[..., StageTrainer], data: StageData) -> None:
    trainer, inputs = trainer_of(dropout=0.0, max_train_steps=200, learning_rate=5e-3), data.step(0)
    losses = [trainer.step(inputs) for _ in range(120)]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    loss, zero = trainer.validation_loss([inputs])
    assert loss < 0.85 * zero


def test_training_that_was_interrupted_goes_on_bit_for_bit(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    whole, first, second = trainer_of(), trainer_of(), trainer_of()
    losses = train(whole, data, 9)
    before = train(first, data, 4)
    first.save(tmp_path)
    assert second.resume(tmp_path)
    assert second.step_count == 4
    assert before + train(second, data, 9) == losses
    assert same(weights(second.denoiser), weights(whole.denoiser))
    assert same(weights(second.ema), weights(whole.ema))
    assert second.validation_loss(data.validation()) == whole.validation_loss(data.validation())


def test_min_snr_weighs_training_and_not_what_is_held_out(
    trainer_of: Callable[..., StageTrainer], data: StageData
) -> None:
    plain, weighted = trainer_of(), trainer_of(snr_gamma=5.0)
    assert plain.validation_loss(data.validation()) == weighted.validation_loss(data.validation())
    losses = train(plain, data, 1), train(weighted, data, 1)
    assert losses[1][0] < 0.9 * losses[0][0]  # no weight of v reaches 1
    assert losses[1][0] > 0


def test_there_is_nothing_to_resume_at_first(trainer_of: Callable[..., StageTrainer], tmp_path: Path) -> None:
    assert not trainer_of().resume(tmp_path)


def test_a_stage_that_goes_on_with_other_code_is_told(trainer_of: Callable[..., StageTrainer], tmp_path: Path) -> None:
    trainer_of().save(tmp_path)
    file = tmp_path / "secondary" / "training" / "step-000000" / "stage.json"
    spec = json.loads(file.read_text())
    (name,) = spec["code"]
    rewrite(file, {**spec, "code": {name: "codecdiff-net 0.1.0, 0"}})
    with pytest.warns(UserWarning, match=rf"{name} \(codecdiff-net 0\.1\.0, 0 then"):
        assert trainer_of().resume(tmp_path)


def test_a_trained_stage_without_the_state_of_its_training_is_not_written_over(
    trainer_of: Callable[..., StageTrainer], tmp_path: Path
) -> None:
    trainer_of().save(tmp_path)
    shutil.rmtree(tmp_path / "secondary" / "training")  # as in a folder from the hub
    with pytest.raises(ValueError, match=r"holds a trained stage without training/.*\.secondary\.start_from="):
        trainer_of().resume(tmp_path)
    (tmp_path / "secondary" / "training").mkdir()
    with pytest.raises(ValueError, match="holds a trained stage without training/"):
        trainer_of().resume(tmp_path)
    (tmp_path / "secondary" / "stage.json").unlink()  # a first save that was interrupted
    assert not trainer_of().resume(tmp_path)


def test_another_network_cannot_be_resumed(
    trainer_of: Callable[..., StageTrainer], make_pipeline: Make, tmp_path: Path
) -> None:
    trainer_of().save(tmp_path)
    pipeline = make_pipeline()
    other = pipeline.new_denoiser(1, {"name": "unet", "width": 8, "multipliers": [1], "layers": ["text"], "groups": 4})
    stage = Stage("secondary", other, training_scheduler(num_train_timesteps=100))
    with pytest.raises(
        ValueError, match=r"another stage in training: denoiser.* there, .* here\. Choose another output folder"
    ):
        StageTrainer(stage).resume(tmp_path)
    stage = Stage(
        "secondary",
        pipeline.stages[1].denoiser,
        training_scheduler(num_train_timesteps=50),
        SamplingConfig(num_inference_steps=20),
    )
    with pytest.raises(ValueError, match=r"another stage in training: train_scheduler.* there"):
        StageTrainer(stage).resume(tmp_path)


@pytest.mark.integration
def test_coloured_noise_is_trained_on_measured_with_and_kept(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    white, pink, x_start = trainer_of(), trainer_of(), noise(8, 64, 40)
    pink.stage.noise_color = 1.0
    assert torch.equal(pink.draw(inputs_of(x_start))[0], colored(white.draw(inputs_of(x_start))[0], 1.0))
    inputs = data.validation()
    assert pink.validation_loss(inputs)[0] != white.validation_loss(inputs)[0]
    pink.save(tmp_path)
    pipeline = data.pipeline
    parts = pipeline.codec, pipeline.splitter, pipeline.conditioner
    assert load_stage(tmp_path, "secondary", *parts, 1).noise_color == 1.0
    with pytest.raises(ValueError, match=r"another stage in training: noise_color is 1.0 there, 0.0 here"):
        white.resume(tmp_path)
    folder_as_version_0_1(tmp_path / "secondary")  # at first without a choice
    assert load_stage(tmp_path, "secondary", *parts, 1).noise_color == 0.0
    assert white.resume(tmp_path)


def test_the_average_is_what_generation_reads(
    trainer_of: Callable[..., StageTrainer], data: StageData, make_pipeline: Make, tmp_path: Path
) -> None:
    trainer, pipeline = trainer_of(), make_pipeline()
    start = weights(trainer.denoiser)
    train(trainer, data, 1)
    assert same(weights(trainer.ema.module), weights(trainer.denoiser))  # one step: the average of one
    train(trainer, data, 6)
    raw, mean = weights(trainer.denoiser), weights(trainer.ema.module)
    assert not same(raw, mean)
    assert not same(raw, start)
    trainer.save(tmp_path, {"step": 6, "loss": 0.5})
    stage = load_stage(tmp_path, "secondary", pipeline.codec, pipeline.splitter, pipeline.conditioner, 1)
    assert same(weights(stage.denoiser), mean)
    assert stage.facts == {"steps": 6}
    assert not stage.denoiser.training
    assert json.loads((tmp_path / "secondary" / "log.jsonl").read_text()) == {"step": 6, "loss": 0.5}


def test_the_average_follows_its_formula(trainer_of: Callable[..., StageTrainer], data: StageData) -> None:
    trainer, mean = trainer_of(ema_decay=0.3), {}
    for n in range(5):
        train(trainer, data, n + 1)
        decay = min(0.3, (1 + n) / (10 + n)) if n else 0.0
        raw = weights(trainer.denoiser)
        mean = {name: decay * mean[name] + (1 - decay) * raw[name] if n else raw[name] for name in raw}
    for name, tensor in weights(trainer.ema.module).items():
        torch.testing.assert_close(tensor, mean[name], rtol=1e-5, atol=1e-6)


def test_a_folder_in_training_holds_no_pickles(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    trainer = trainer_of()
    train(trainer, data, 2)
    trainer.save(tmp_path, {"step": 2})
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".safetensors", ".json", ".jsonl"}
    for file in files:
        assert not file.name.startswith(".")
        assert file.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")
        assert str(tmp_path).encode() not in file.read_bytes()


def test_the_held_out_loss_is_always_the_same_and_draws_nothing(
    trainer_of: Callable[..., StageTrainer], data: StageData
) -> None:
    trainer, state = trainer_of(), torch.get_rng_state()
    first = trainer.validation_loss(data.validation())
    assert first == trainer.validation_loss(data.validation())
    assert torch.equal(torch.get_rng_state(), state)
    assert first[1] == pytest.approx((2 / torch.pi) ** 0.5, rel=0.1)  # mean |v| of standardised latents, if normal


def test_held_out_tracks_are_never_trained_on(data: StageData) -> None:
    trained = {data.crops.sample(n)[0] for n in range(3 * len(data.crops))}
    held = {data.validation_crops.sample(n)[0] for n in range(3 * len(data.validation_crops))}
    assert trained
    assert held
    assert not trained & held


def inputs_of(x_start: Tensor, first: int = 0, context: Tensor | None = None) -> StageInput:
    """The input of samples from `first` on, without conditions."""
    indices = range(first, first + len(x_start))
    return StageInput(indices, x_start, torch.ones_like(x_start), context, Condition({}))


def test_a_step_draws_from_seed_step_and_sample_index_alone(trainer_of: Callable[..., StageTrainer]) -> None:
    trainer, inputs = trainer_of(), inputs_of(noise(8, 4, 6))
    eps, steps = trainer.draw(inputs)
    again = trainer.draw(inputs)
    assert torch.equal(eps, again[0])
    assert torch.equal(steps, again[1])
    assert not torch.equal(eps, trainer.draw(inputs_of(noise(8, 4, 6), 8))[0])
    trainer.step_count = 1
    assert not torch.equal(eps, trainer.draw(inputs)[0])
    assert sorted((steps * 8 // 100).tolist()) == list(range(8))  # one in each eighth of the schedule


def test_one_process_and_two_draw_the_same_for_a_sample(
    trainer_of: Callable[..., StageTrainer], data: StageData
) -> None:
    trainer, x_start, context = trainer_of(context_noise_std=0.3), noise(8, 4, 6), noise(8, 2, 6)
    trainer.step_count = 3
    whole = inputs_of(x_start, first=3 * 8, context=context)
    halves = [inputs_of(x_start[i : i + 4], 3 * 8 + i, context[i : i + 4]) for i in (0, 4)]
    assert data.crops.sample_indices(3, 8) == [*whole.sample_indices]
    assert [data.crops.sample_indices(3, 4, rank, 2) for rank in (0, 1)] == [[*half.sample_indices] for half in halves]
    parts = [trainer.draw(half, num_parts=2) for half in halves]
    for one, two in zip(trainer.draw(whole), zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(two))
    augmented = [context for inputs in (whole, *halves) if (context := trainer.augment(inputs)) is not None]
    assert len(augmented) == 3
    assert torch.equal(augmented[0], torch.cat(augmented[1:]))


@pytest.mark.parametrize(("timestep_bias", "share"), [(1, 0.1), (2, 0.1**0.5), (0.5, 0.01)])
def test_steps_of_much_noise_are_drawn_as_often_as_asked(
    trainer_of: Callable[..., StageTrainer], timestep_bias: float, share: float
) -> None:
    trainer = trainer_of(timestep_bias=timestep_bias)
    total = trainer.stage.train_scheduler.config.num_train_timesteps
    _, steps = trainer.draw(inputs_of(torch.zeros(2000, 1, 1)))
    assert steps.min() >= 0
    assert steps.max() < total
    assert float((steps >= 0.9 * total).float().mean()) == pytest.approx(share, abs=0.005)


def test_the_learning_rate_rises_and_falls(trainer_of: Callable[..., StageTrainer]) -> None:
    trainer = trainer_of(learning_rate=1.0, warmup_steps=10, max_train_steps=100)
    assert trainer.learning_rate(0) == pytest.approx(0.1, rel=1e-3)
    assert trainer.learning_rate(50) == pytest.approx(0.51, rel=1e-3)
    assert trainer.learning_rate(100) == trainer.learning_rate(1000) == pytest.approx(0.02)
    constant = trainer_of(learning_rate=1.0, warmup_steps=10, lr_scheduler="constant")
    assert (constant.learning_rate(4), constant.learning_rate(500)) == (0.5, 1.0)


def test_a_loss_that_is_not_finite_stops_with_a_hint(trainer_of: Callable[..., StageTrainer], data: StageData) -> None:
    trainer, inputs = trainer_of(), data.step(0)
    start = weights(trainer.denoiser)
    broken = StageInput(
        inputs.sample_indices, inputs.x_start * torch.nan, inputs.valid_mask, inputs.context, inputs.condition
    )
    message = r"secondary became nan at step 0\. Lower train\.learning_rate.*timestep of 100: 0 at \d+, 1 at \d+, 2 at"
    with pytest.raises(FloatingPointError, match=message):
        trainer.step(broken)
    assert same(weights(trainer.denoiser), start)


def test_a_gradient_that_is_not_finite_touches_nothing(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    trainer = trainer_of()
    train(trainer, data, 2)
    trainer.save(tmp_path)
    optimizer, average = trainer.optimizer.state_dict()["state"], weights(trainer.ema)
    before = weights(trainer.denoiser), [values["exp_avg"].clone() for values in optimizer.values()]
    hook = next(trainer.denoiser.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(UserError, match=r"The gradient norm of secondary became (nan|inf) at step 2\..*: 8 at \d+, 9"):
        trainer.step(data.step(2))
    assert same(weights(trainer.denoiser), before[0])
    assert same(weights(trainer.ema), average)
    assert all(torch.equal(a["exp_avg"], b) for a, b in zip(optimizer.values(), before[1], strict=True))
    assert trainer.step_count == 2
    hook.remove()
    train(trainer, data, 3)  # as if it had not happened
    again = trainer_of()
    assert again.resume(tmp_path)
    train(again, data, 3)
    assert same(weights(again.denoiser), weights(trainer.denoiser))


def test_a_validation_loss_that_is_not_finite_is_not_saved(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    trainer = trainer_of(max_train_steps=2)
    trainer.train(data, tmp_path, {1})
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    broken = trainer_of(max_train_steps=3)
    assert broken.resume(tmp_path)
    with torch.no_grad():
        for parameter in broken.ema.module.parameters():
            parameter.fill_(torch.nan)
    broken.generation = None  # it publishes nothing before its first step
    with pytest.raises(UserError, match=r"validation loss of secondary became nan at step 3, which is not saved"):
        broken.train(data, tmp_path, set())
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_two_batches_are_accumulated_as_one_of_twice_the_size(
    trainer_of: Callable[..., StageTrainer], make_pipeline: Make, store: CodeStore, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"crop_seconds": 0.1, "dropout": 0.0}
    losses: list[tuple[float, float]] = []
    for size, accumulated in ((4, 1), (2, 2)):
        config = TrainConfig(train_batch_size=size, **options)
        data = StageData(store, make_pipeline(), 1, config, DataConfig(validation_fraction=0.34))
        trainer = trainer_of(gradient_accumulation_steps=accumulated, max_train_steps=3, **options)
        trainer.train(data, tmp_path / str(size), set())
        losses.append((trainer.rows[-1]["loss"], trainer.rows[-1]["grad_norm"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_accumulated_steps_are_resumed_bit_for_bit(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    options = {"gradient_accumulation_steps": 3, "max_train_steps": 4}
    whole, first, second = (trainer_of(**options) for _ in range(3))
    whole.train(data, tmp_path / "whole", {2})
    first.train(data, tmp_path / "parts", {2}, track=lambda steps: list(steps)[:2])
    assert second.resume(tmp_path / "parts")
    assert second.step_count == 2
    second.train(data, tmp_path / "parts", set())
    assert same(weights(second.denoiser), weights(whole.denoiser))
    assert same(weights(second.ema), weights(whole.ema))
    other = trainer_of(max_train_steps=4)  # negative control
    other.train(data, tmp_path / "other", set())
    assert not same(weights(other.denoiser), weights(whole.denoiser))


@pytest.fixture
def _ctrl_c_raises() -> Iterator[None]:
    """As in a terminal: what a shell starts in the background ignores Ctrl+C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_raises")
def test_ctrl_c_stops_after_a_step_that_is_saved_and_resuming_ends_with_the_same_bits(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    whole, first, second = (trainer_of(max_train_steps=4) for _ in range(3))
    whole.train(data, tmp_path / "whole", {4})
    lines: list[str] = []

    def interrupt(count: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(
        KeyboardInterrupt, match=r"Stopped after step 2 of 4 of secondary, which is saved\. Run the same"
    ):
        first.train(data, tmp_path / "parts", {4}, after_step=interrupt, report=lines.append)
    (line,) = lines
    assert line.startswith("Stopping after this step, with a checkpoint. Press Ctrl+C again")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [row["step"] for row in first.rows] == [2]
    assert second.resume(tmp_path / "parts")
    second.train(data, tmp_path / "parts", {4})
    assert [row["step"] for row in second.rows] == [2, 4]
    assert same(weights(second.denoiser), weights(whole.denoiser))
    assert same(weights(second.ema), weights(whole.ema))


@pytest.mark.usefixtures("_ctrl_c_raises")
def test_ctrl_c_while_the_last_step_is_saved_stops_too(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    def interrupt(row: Any, line: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    trainer = trainer_of(max_train_steps=2)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after step 2 of 2 of secondary, which is saved\."):
        trainer.train(data, tmp_path, {2}, log=interrupt)
    assert trainer_of(max_train_steps=2).resume(tmp_path)


@pytest.mark.usefixtures("_ctrl_c_raises")
def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    trainer = trainer_of(max_train_steps=4)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.train(data, tmp_path, {4}, after_step=interrupt, report=interrupt)
    assert str(caught.value) == ""
    assert not any(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stage_that_has_learned_nothing_is_noted() -> None:
    def note(loss: float, base: float | None = None) -> str:
        row = {"step": 4, "validation_loss": loss, "normalized_validation_loss": loss / 2}
        return training.no_progress_note("primary", [{**row, "normalized_validation_loss": 3.0}, row], base)

    assert "primary does not predict better than zero, the mean of its latents" in note(2.0)
    assert "primary hardly predicts better than zero" in note(1.98)
    assert "loss is 1.06, and 1 for zeros. Train for more steps, or on more music." in note(2.12)
    assert note(1.95) == note(2.2, base=2.3) == training.no_progress_note("primary", []) == ""
    assert "primary did not improve: its validation loss is 1.5, and was 1.4 before" in note(1.5, base=1.4)


def test_what_a_stage_trains_on(make_pipeline: Make, data: StageData) -> None:
    pipeline, batch = make_pipeline(), data.crops.batch([0, 1])
    batch.valid_mask[1, -3:] = 0
    latents = pipeline.codec.embed(batch.codes) * batch.valid_mask[:, None, None]
    inputs = stage_input(batch, pipeline, 1)
    assert inputs.context is not None
    assert torch.equal(inputs.context, latents[:, 0])
    assert torch.equal(inputs.x_start, latents[:, 1:].flatten(1, 2))
    assert torch.equal(inputs.valid_mask, batch.valid_mask[:, None].expand_as(inputs.valid_mask))
    assert inputs.condition["text"].mask.any(1).all()
    assert stage_input(batch, pipeline, 0).context is None


@pytest.mark.integration
def test_projections_are_trained_on_and_codes_are_seen(
    make_pipeline: Make, dac: Codec, music: Path, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "store", music, dac, {}, target="continuous")
    train = TrainConfig(train_batch_size=2, crop_seconds=0.1)
    for snap in (True, False):
        pipeline = make_pipeline(target="continuous", snap_context=snap)
        batch = StageData(store, pipeline, 1, train, DataConfig()).crops.batch([0, 1])
        inputs = stage_input(batch, pipeline, 1)
        assert batch.continuous is not None
        projections = pipeline.codec.normalize(batch.continuous)
        entries = pipeline.codec.embed(batch.codes)
        assert (projections - entries).abs().mean() > 0.01
        assert torch.equal(inputs.x_start, projections[:, 1:].flatten(1, 2))
        assert inputs.context is not None
        assert torch.equal(inputs.context, (entries if snap else projections)[:, 0])
        assert pipeline.to_config()["target"] == "continuous"


def test_dropped_conditions_follow_sample_numbers(trainer_of: Callable[..., StageTrainer], data: StageData) -> None:
    trainer, inputs = trainer_of(dropout=0.5), data.step(3)
    absent = ~trainer.drop(inputs.condition, list(range(4)))["text"].mask.any(1)
    one_by_one = [~trainer.drop(inputs.condition.rows([i]), [i])["text"].mask.any(1) for i in range(4)]
    assert torch.equal(absent, torch.cat(one_by_one))
    rows = inputs.condition.rows([0] * 200)
    assert 60 < int((~trainer.drop(rows, list(range(200)))["text"].mask.any(1)).sum()) < 140


@pytest.mark.integration
def test_noise_on_the_context_follows_the_step_and_leaves_what_was_measured(
    trainer_of: Callable[..., StageTrainer], data: StageData
) -> None:
    plain, trainer, again = trainer_of(), trainer_of(context_noise_std=0.3), trainer_of(context_noise_std=0.3)
    inputs = data.step(0)
    context = inputs.context
    assert context is not None
    assert plain.augment(inputs) is context
    assert trainer.augment(replace(inputs, context=None)) is None
    noisy = trainer.augment(inputs)
    assert noisy is not None
    added = noisy - context
    assert float(added.std()) == pytest.approx(0.3, rel=0.05)
    assert train(trainer, data, 2) == train(again, data, 2) != train(plain, data, 2)
    later = trainer.augment(inputs)
    assert later is not None
    assert not torch.equal(later, noisy)
    validation = data.validation()
    assert trainer_of(context_noise_std=0.3).validation_loss(validation) == trainer_of().validation_loss(validation)


def test_a_save_that_fails_leaves_the_stage_as_it_was(
    trainer_of: Callable[..., StageTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = trainer_of().stage
    save_stage(tmp_path, stage)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def fail(_: Any, metadata: Any) -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("codecdiff.files.tensors._safetensors_blocks", fail)
    with pytest.raises(UserError, match=r"model\.safetensors' cannot be written: No space left on device"):
        save_stage(tmp_path, stage)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_a_stage_that_starts_from_its_equal_is_as_good_before_its_first_step(
    trainer_of: Callable[..., StageTrainer], data: StageData, tmp_path: Path
) -> None:
    source, warm = trainer_of(), trainer_of()
    train(source, data, 6)
    source.save(tmp_path)
    assert warm.validation_loss(data.validation()) != source.validation_loss(data.validation())
    told = warm.start_from(tmp_path / "secondary")
    assert warm.validation_loss(data.validation()) == source.validation_loss(data.validation())
    assert same(weights(warm.denoiser), weights(source.ema.module))
    count = sum(tensor.numel() for tensor in warm.denoiser.state_dict().values())
    assert told == f"starts with {count:,} of {count:,} weights of secondary"
    train(warm, data, 1)
    warm.save(tmp_path / "warm")
    facts = json.loads((tmp_path / "warm" / "secondary" / "stage.json").read_text())["training"]["start_from"]
    assert facts == {"stage": "secondary", "weights": facts["weights"], "copied": count, "total": count}
    assert (
        facts["weights"] == hashlib.sha256((tmp_path / "secondary" / "model.safetensors").read_bytes()).hexdigest()[:32]
    )
    again = trainer_of()
    assert again.resume(tmp_path / "warm")
    assert again.stage.facts["start_from"] == facts  # and it goes on, from its own weights
    assert same(weights(again.denoiser), weights(warm.denoiser))


def test_a_stage_starts_with_what_agrees_and_says_what_does_not(
    trainer_of: Callable[..., StageTrainer], make_pipeline: Make, tmp_path: Path
) -> None:
    source, warm = trainer_of(0), trainer_of(1)  # the secondary has other channels, and a context
    with torch.no_grad():
        for parameter in source.ema.module.parameters():
            parameter.add_(1)
    source.save(tmp_path)
    before, told = weights(warm.denoiser), warm.start_from(tmp_path / "primary")
    differ = {"input.weight", "output.resample.weight", "output.resample.bias"}
    after, there = weights(warm.denoiser), weights(source.ema.module)
    assert all(torch.equal(after[name], (before if name in differ else there)[name]) for name in after)
    assert same(weights(warm.ema.module), after)
    copied, total = (warm.stage.facts["start_from"][key] for key in ("copied", "total"))
    assert copied == sum(tensor.numel() for name, tensor in after.items() if name not in differ) < total
    skipped = told.partition("; randomly initialized: ")[2].split(", ")
    assert skipped == ["input.weight", "output.resample.weight", "output.resample.bias"]


def test_a_stage_cannot_start_from_what_is_no_stage_or_shares_nothing(
    trainer_of: Callable[..., StageTrainer], make_pipeline: Make, tmp_path: Path
) -> None:
    warm = trainer_of()
    with pytest.raises(FileNotFoundError, match=r"does not hold a trained stage.*runs/other/model/primary"):
        warm.start_from(tmp_path / "primary")
    warm.save(tmp_path)
    file = tmp_path / "secondary" / "stage.json"
    spec = json.loads(file.read_text())
    rewrite(file, {**spec, "denoiser": {"name": "dit"}})
    with pytest.raises(ValueError, match=r"secondary has the denoiser 'dit', not 'unet'"):
        warm.start_from(tmp_path / "secondary")
    digest = write_safetensors(tmp_path / "secondary" / "model.safetensors", {"other": torch.zeros(3)})
    rewrite(file, {**spec, "files": {"model.safetensors": {"bytes": 100, "sha256": digest}}})
    before = weights(warm.denoiser)
    with pytest.raises(ValueError, match=r"No weights of .* agree in name and shape"):
        warm.start_from(tmp_path / "secondary")
    assert same(weights(warm.denoiser), before)
