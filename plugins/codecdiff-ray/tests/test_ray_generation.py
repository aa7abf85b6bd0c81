"""Two workers of a real Ray generate what one process generates, and their errors are those of one process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from codecdiff_eval.compare.clips import Clip, ClipWriter, EvalSplit
from codecdiff_eval.compare.config import CompareEvalConfig
from codecdiff_eval.embedders import LogMel
from codecdiff_eval.generation import Generator
from codecdiff_eval.inputs import load_engine
from codecdiff_eval.prompts import EvalPrompt
from codecdiff_ray.generation import GenerationFailed, ray_generation_engine
from small import RATE, write_music

from codecdiff import GenerationConfig, Pipeline
from codecdiff.data import find_tracks
from codecdiff.errors import InvalidValue

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - by default workers hardly run on a busy machine
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def model(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> Path:
    make_pipeline(generation_config=GenerationConfig(batch_size=2)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_workers_write_the_clips_of_one_process(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names are relative to the folder of the command
    engine = load_engine("ray", "cpu", 2)[0]
    assert engine is not None
    here = Generator(Pipeline.from_pretrained("model"), seed=3)
    there = replace(here, workers=partial(engine, partial(Pipeline.from_pretrained, "model")))
    prompts = [EvalPrompt(i, {"text": text}) for i, text in enumerate(("drums", "a flute", "strings", "a waltz"))]
    write_music(tmp_path / "music", 2, 0.3)
    sources = find_tracks(tmp_path / "music")
    clips = [*here.generated(prompts, 0.2), *here.oracle_first_stage(sources)]
    expected, done = here.write(clips, Path("here")), []
    here.write(clips[1:3], Path("there"))  # these are there already
    assert there.write(clips, Path("there"), done.append) == [
        replace(track, file=Path("there", track.name)) for track in expected
    ]
    assert done == [2, 3, 4, 5, 6]
    for track in expected:
        assert track.file.read_bytes() == Path("there", track.name).read_bytes()
    assert len(Path("there", "seconds.txt").read_text().split("\n")[1:]) == len(clips)


def test_workers_generate_the_sets_of_a_comparison(model: Path, tmp_path: Path) -> None:
    write_music(tmp_path / "music", 5, 1.2)
    clips = tuple(
        Clip(track.name, str(track.file), 0.1, {"text": f"a tone {i}"})
        for i, track in enumerate(find_tracks(tmp_path / "music"))
    )
    load = partial(Pipeline.from_pretrained, model)
    config = CompareEvalConfig(clips=8, seconds=1.0, players=1)
    here = ClipWriter(load(), LogMel(sample_rate=RATE), config, tmp_path / "here")
    there = replace(here, folder=tmp_path / "there", workers=partial(ray_generation_engine("cpu", 2), load))
    expected, sets = (w.model_sets(EvalSplit((), clips, ()), ["drums", "b", "c"]) for w in (here, there))
    assert list(sets) == list(expected) == ["generated", "oracle first stage"]
    for name, embeddings in expected.items():
        assert len(embeddings) == 5
        assert torch.equal(sets[name], embeddings)
    files = sorted(file.name for file in here.folder.iterdir())
    assert len(files) == 5
    assert all((here.folder / name).read_bytes() == (there.folder / name).read_bytes() for name in files)


def test_each_worker_loads_once_and_each_task_runs_once() -> None:
    def load(device: str) -> tuple[str, int]:
        return device, os.getpid()

    def task(model: tuple[str, int]) -> tuple[str, int, int]:
        time.sleep(0.2)
        return *model, os.getpid()

    results = dict(ray_generation_engine("cpu", 2)(load, [task] * 6))
    assert sorted(results) == list(range(6))
    assert len({process for _, _, process in results.values()}) == 2
    assert all(device == "cpu" and loaded == process for device, loaded, process in results.values())


def test_a_task_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    def die(model: None) -> None:
        (tmp_path / f"{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(GenerationFailed, match=r"Ray failed: .* What is done is saved"):
        list(ray_generation_engine("cpu", 1)(lambda device: None, [die]))
    assert len(list(tmp_path.iterdir())) == 3


def test_mistakes_of_users_are_told_as_in_one_process() -> None:
    def refuse(model: None) -> None:
        raise InvalidValue("A sentence for the user.")

    def load_none(device: str) -> None:
        raise InvalidValue("Another sentence.")

    with pytest.raises(InvalidValue, match=r"^A sentence for the user\.$"):
        list(ray_generation_engine("cpu", 1)(lambda device: None, [refuse]))
    with pytest.raises(GenerationFailed, match=r"Ray failed: .*Another sentence\."):
        list(ray_generation_engine("cpu", 1)(load_none, [refuse]))
    with pytest.raises(InvalidValue, match="add one"):
        load_engine("local", "", 2)
    assert load_engine("local", "cpu", None) == (None, "cpu")
