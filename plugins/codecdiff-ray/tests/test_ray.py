"""A task that kills its workers is given up, and a cluster that loses a node makes the same store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import soundfile
from codecdiff_ray.engine import MAX_ATTEMPTS, Encoder, ray_engine, task_to_json
from ray.cluster_utils import Cluster

from codecdiff import Codec
from codecdiff.config import build, to_config
from codecdiff.data import EncodeConfig, SegmentConfig, encode_tracks, find_tracks
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.job import EncodingProgress, Task, TaskResult, begin_job, draft_of
from codecdiff.data.encoding.worker import run_task
from codecdiff.testing.tiny import write_tiny

RATE = 8000  # Hz, of the tiny DAC


@pytest.fixture(scope="module")
def dac(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return build("codecs", {"name": "dac", "model": str(write_tiny("dac", tmp_path_factory.mktemp("dac")))})


def write_noise(folder: Path, count: int, seconds: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise = 0.1 * np.random.default_rng(i).standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"{i}.wav", noise.astype(np.float32), RATE)
    return folder


def same(store: CodeStore, other: CodeStore) -> bool:
    """Return whether two stores hold the same: nothing lost, nothing twice, the same codes in the same files."""
    files = [sorted((file.name, file.read_bytes()) for file in s.folder.glob("shards/*")) for s in (store, other)]
    return store.rows == other.rows and store.header == other.header and files[0] == files[1]


def test_an_actor_gives_up_a_task_that_its_like_died_of(dac: Codec, tmp_path: Path) -> None:
    tracks = find_tracks(write_noise(tmp_path / "music", 3, 1.0))
    config = EncodeConfig(shard_minutes=0.02)
    job, tasks = begin_job(tracks, tmp_path / "store", dac, to_config("codecs", dac), config)
    actor = Encoder(job, "cpu")

    def told(task: Task) -> dict[str, Any]:
        return json.loads(actor({"task": [task_to_json(task)]})["result"][0])

    done = told(tasks[0])
    assert TaskResult(**done) == run_task(tasks[0], job, dac)
    assert told(tasks[0]) == done
    assert len(list(job.draft.glob("tasks/.00000.try-*"))) == 1  # what is done is not tried
    for number in range(MAX_ATTEMPTS):  # each of which is killed
        (job.draft / "tasks" / f".00001.try-{number}").touch()
    assert told(tasks[1])["shard"] == ""
    assert not job.rows_file(1).exists()


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_makes_the_same_store(dac: Codec, tmp_path: Path) -> None:
    tracks = find_tracks(write_noise(tmp_path / "album", 24, 60.0))
    config = EncodeConfig(segments=SegmentConfig(segment=5, overlap=1), shard_minutes=2)
    spec = to_config("codecs", dac)
    expected = encode_tracks(tracks, tmp_path / "expected", dac, spec, config)[0]
    small: dict[str, Any] = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    tries: list[int] = []
    try:
        nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(3)]
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address=cluster.address, **quiet)

        def progress(state: EncodingProgress) -> None:
            if not tries:
                cluster.remove_node(nodes[0], allow_graceful=False)
            tries.append(len(list(draft_of(tmp_path / "store").glob("tasks/.*.try-*"))))

        store, skipped = encode_tracks(
            tracks, tmp_path / "store", dac, spec, config, engine=ray_engine("cpu"), progress=progress
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not skipped
    assert tries[-1] > store.header["shards"]  # a task was tried again
    assert same(store, expected)
