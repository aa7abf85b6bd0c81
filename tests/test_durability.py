"""What training leaves on the disk: damage is noticed, no step is lost, and no two runs write into one stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import folder_as_version_0_1, model_fingerprint
from torch import Tensor

import codecdiff
from codecdiff import Pipeline
from codecdiff.config import TrainConfig
from codecdiff.files import FolderLocked
from codecdiff.pipeline import checkpoint, stage_folder
from codecdiff.training import StageTrainer, lock_stage, read_logs

Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def trainer(make_pipeline: Make) -> Callable[[], StageTrainer]:
    """Return a function that makes a trainer of the primary stage."""

    def make() -> StageTrainer:
        stage = make_pipeline().stages[0]
        stage.denoiser.requires_grad_(True)
        return StageTrainer(stage, TrainConfig(max_train_steps=40))

    return make


@pytest.fixture(scope="module")
def model(make_pipeline: Make, trainer: Callable[[], StageTrainer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with checkpoints of its first stage at steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    shutil.rmtree(folder / "primary")
    first = trainer()
    for step in (2, 4, 6):
        move(first, step)
        first.save(folder, {"step": step, "loss": 1 / step})
    return folder


@pytest.fixture
def home(model: Path, tmp_path: Path) -> Path:
    """Return the folder of that stage in a copy of the model."""
    return shutil.copytree(model, tmp_path, dirs_exist_ok=True) / "primary"


def move(trainer: StageTrainer, step: int) -> None:
    """Make a trainer one after this many steps, without taking them."""
    trainer.step_count = step
    with torch.no_grad():
        for module, shift in ((trainer.denoiser, 0.001), (trainer.ema.module, 0.002)):
            for parameter in module.parameters():
                parameter.add_(shift * step)


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def flip(file: Path, position: float = 0.5) -> None:
    contents = bytearray(file.read_bytes())
    contents[int(position * len(contents))] ^= 1
    replace(file, bytes(contents))


def replace(file: Path, contents: bytes) -> None:
    file.unlink()  # another file may be linked to it
    file.write_bytes(contents)


def test_the_newest_two_generations_are_kept_and_the_newest_is_published(home: Path) -> None:
    assert [path.name for path in stage_folder.generations(home)] == ["step-000006", "step-000004"]
    newest = stage_folder.generations(home)[0]
    for name in ("model.safetensors", "log.jsonl"):
        assert (home / name).read_bytes() == (newest / name).read_bytes()
    published, whole = (stage_folder.read_stage_config(path) for path in (home, newest))
    assert published.pop("files").keys() == {"model.safetensors", "log.jsonl"}
    assert whole.pop("files").keys() == {"model.safetensors", "log.jsonl", "state.safetensors"}
    assert published | {"sha256": ""} == whole | {"sha256": ""}
    assert read_logs(home.parent, ["primary"])["primary"] == [{"step": n, "loss": 1 / n} for n in (2, 4, 6)]
    assert not [path for path in home.rglob(".*")]


@pytest.mark.parametrize("name", ["stage.json", "state.safetensors", "model.safetensors", "log.jsonl"])
def test_a_damaged_generation_is_passed_over_and_said(
    home: Path, trainer: Callable[[], StageTrainer], name: str
) -> None:
    damaged, lines, resumed = home / "training" / "step-000006" / name, list[str](), trainer()
    flip(damaged)
    assert resumed.resume(home.parent, lines.append)
    assert resumed.step_count == 4
    assert [row["step"] for row in resumed.rows] == [2, 4]
    assert len(lines) == 2
    assert str(damaged) in lines[0]
    assert "step 4" in lines[1] or "4 steps" in lines[1]
    move(resumed, 6)
    resumed.save(home.parent, {"step": 6, "loss": 1 / 6})
    assert trainer().resume(home.parent, lines.append)
    assert not [line for line in lines[2:] if "damaged" in line]
    assert [path.name for path in stage_folder.generations(home)] == ["step-000006", "step-000004"]


def test_a_trained_stage_is_never_started_anew(home: Path, trainer: Callable[[], StageTrainer]) -> None:
    for path in stage_folder.generations(home):
        flip(path / "state.safetensors")
    with pytest.raises(ValueError, match=r"no state of its training is intact.*step-000006/state\.safetensors' is dam"):
        trainer().resume(home.parent)
    for path in stage_folder.generations(home):
        (path / "state.safetensors").unlink()
    with pytest.raises(ValueError, match=r"step-000004/state\.safetensors' is missing.*delete that folder"):
        trainer().resume(home.parent)


@pytest.mark.parametrize("damage", ["flip", "cut", "zero", "append", "swap", "missing"])
@pytest.mark.parametrize(
    "name", ["codecdiff.json", "codec/model.safetensors", "primary/stage.json", "primary/model.safetensors"]
)
def test_damage_of_a_model_is_noticed_and_the_file_named(home: Path, name: str, damage: str) -> None:
    file = home.parent / name
    whole, other = file.read_bytes(), home.parent / name.replace("primary", "secondary")
    damages = {
        "flip": bytes([*whole[:-20], whole[-20] ^ 4, *whole[-19:]]),
        "cut": whole[: len(whole) // 3],
        "zero": bytes(len(whole)),
        "append": whole + b"\n",
        "swap": (other if other != file else home / "stage.json").read_bytes(),
    }
    replace(file, damages.get(damage, b""))
    if damage == "missing":
        file.unlink()
    if (name, damage) == ("primary/stage.json", "missing"):  # as before the first save has written it
        for is_first in (False, True):  # a first save writes the weights before it, too
            if is_first:
                (home / "model.safetensors").rename(home / "aside")
            with pytest.warns(
                UserWarning, match=r"primary/stage\.json' is missing: the stage of '.*step-000006' is read"
            ):
                assert codecdiff.load(home.parent).stages[0].facts["steps"] == 6
        (home / "aside").rename(home / "model.safetensors")
        shutil.rmtree(home / "training")
        with pytest.raises(FileNotFoundError, match=name):
            codecdiff.load(home.parent)
    elif (name, damage) == ("primary/stage.json", "swap"):  # a whole file, of other weights
        with pytest.raises(ValueError, match=r"primary/model\.safetensors"):
            codecdiff.load(home.parent)
    else:
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            codecdiff.load(home.parent)


def test_every_byte_of_a_description_is_covered(home: Path) -> None:
    file = home / "stage.json"
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        for bit in (1, 32):
            file.write_bytes(bytes([*whole[:position], whole[position] ^ bit, *whole[position + 1 :]]))
            with pytest.raises(ValueError, match=r"primary/stage\.json"):
                stage_folder.read_stage_config(home)


def test_a_log_that_is_missing_is_noticed(home: Path) -> None:
    (home / "log.jsonl").unlink()
    with pytest.raises(ValueError, match=r"primary/log\.jsonl' is missing"):
        read_logs(home.parent, ["primary"])
    assert not read_logs(home.parent, ["secondary"])  # it was never trained


@pytest.mark.parametrize("until", ["model.safetensors", "log.jsonl"])
def test_a_save_that_was_killed_while_it_published_is_read_whole(home: Path, make_pipeline: Make, until: str) -> None:
    newest, older = stage_folder.generations(home)
    spec = stage_folder.read_stage_config(older)
    files = {name: entry for name, entry in spec.pop("files").items() if name != "state.safetensors"}
    del spec["sha256"]
    stage_folder.write_sealed(home / "stage.json", spec, files)
    if until == "model.safetensors":
        shutil.copyfile(older / "log.jsonl", home / "log.jsonl")
    with pytest.warns(UserWarning, match=r"stage\.json' is of an earlier step: the stage of '.*' is read"):
        loaded = codecdiff.load(home.parent)
    assert loaded.stages[0].facts["steps"] == 6
    assert read_logs(home.parent, ["primary"])["primary"][-1]["step"] == {"model.safetensors": 4}.get(until, 6)
    parts = loaded.codec, loaded.splitter, loaded.conditioner
    expected = stage_folder.load_tensors(newest / "model.safetensors", {}, newest)[0]
    assert same(weights(checkpoint.load_stage(home.parent, "primary", *parts, 0).denoiser), expected)
    shutil.copyfile(older / "model.safetensors", home / "model.safetensors.new")
    (home / "model.safetensors.new").replace(home / "model.safetensors")  # before any of it: the older stage
    assert codecdiff.load(home.parent).stages[0].facts["steps"] == 4


def test_the_description_of_a_checkpoint_in_place_of_the_published_one_is_noticed(home: Path) -> None:
    newest, _ = stage_folder.generations(home)
    shutil.copyfile(newest / "stage.json", home / "stage.json")
    with pytest.warns(UserWarning, match=r"primary/stage\.json' is that of a checkpoint: the stage of '.*' is read"):
        assert codecdiff.load(home.parent).stages[0].facts["steps"] == 6


def test_a_log_that_is_replaced_while_it_is_read_is_read_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, log, sources = read_logs(home.parent, ["primary"]), (home / "log.jsonl").read_text(), list[Path]()
    read_stage_config = stage_folder.read_stage_config

    def read_and_save(folder: Path, *options: Any) -> Any:
        spec = read_stage_config(folder, *options)
        if not sources:  # a save replaces both files before the log is read
            (home / "log.jsonl").write_text("{}\n")
            shutil.copyfile(home / "stage.json", home / "new")
            (home / "new").replace(home / "stage.json")
        else:
            (home / "log.jsonl").write_text(log)
        sources.append(folder)
        return spec

    monkeypatch.setattr(stage_folder, "read_stage_config", read_and_save)
    monkeypatch.setattr(stage_folder, "published", lambda home, name: home)
    assert read_logs(home.parent, ["primary"]) == expected
    assert sources == [home, home]


def test_the_fingerprint_is_of_what_was_loaded(
    home: Path, trainer: Callable[[], StageTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = codecdiff.load(home.parent)
    assert pipeline.fingerprint == model_fingerprint(home.parent)
    first, resumed = pipeline.fingerprint, trainer()
    assert resumed.resume(home.parent)
    move(resumed, 8)
    resumed.save(home.parent)
    assert model_fingerprint(home.parent) != first
    monkeypatch.setattr("hashlib.file_digest", pytest.fail)
    assert pipeline.fingerprint == first  # without reading anything


def test_a_stage_of_version_0_1_is_resumed_and_its_torn_log_is_mended(
    home: Path, trainer: Callable[[], StageTrainer]
) -> None:
    before = trainer()
    assert before.resume(home.parent)
    shutil.rmtree(home / "training" / "step-000004")
    folder_as_version_0_1(home)
    with (home / "log.jsonl").open("w") as log:  # ahead of the state, and cut
        log.write("".join(json.dumps({"step": n, "held_out": 2.0}) + "\n" for n in (2, 4, 6, 8)) + '{"step": 1')
    after = trainer()
    assert after.resume(home.parent)
    assert after.rows == [{"step": n, "validation_loss": 2.0} for n in (2, 4, 6)]
    assert before.step_count == after.step_count == 6
    for one, two in ((before.denoiser, after.denoiser), (before.ema.module, after.ema.module)):
        assert same(weights(one), weights(two))
    move(after, 10)
    after.save(home.parent, {"step": 10})
    assert [path.name for path in (home / "training").iterdir()] == ["step-000010"]
    assert [row["step"] for row in read_logs(home.parent, ["primary"])["primary"]] == [2, 4, 6, 10]


def test_two_runs_do_not_train_one_stage(tmp_path: Path) -> None:
    with lock_stage(tmp_path, "primary"):
        (tmp_path / "primary" / ".0badcafe-1-12345678.partial").mkdir()
        with (
            pytest.raises(FolderLocked, match=r"primary' is being written by another run \(process \d+ on "),
            lock_stage(tmp_path, "primary"),
        ):
            pass
        assert list((tmp_path / "primary").iterdir())  # the second deleted nothing
        with lock_stage(tmp_path, "primary", is_main_process=False), lock_stage(tmp_path, "secondary"):
            pass
    with lock_stage(tmp_path, "primary"):
        assert not list((tmp_path / "primary").iterdir())
