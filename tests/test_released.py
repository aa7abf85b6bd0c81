"""What `make test-hub` does to the released models, with tiny ones of random weights on a hub of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_hub import Hub

from codecdiff.files import sha256
from codecdiff.testing.tiny import write_tiny

SCRIPT = Path(__file__).parent / "hub" / "released.py"
MODELS = {  # names in the script, hub ids, and how a tiny one is written
    "dac-44khz": ("descript/dac_44khz", "dac", {}),
    "encodec-24khz": ("facebook/encodec_24khz", "encodec", {"size": "tiny-24khz"}),
    "mimi": ("kyutai/mimi", "mimi", {}),
    "flan-t5": ("google/flan-t5-large", "t5", {}),
    "clap-music": ("laion/larger_clap_music", "clap-music", {}),
    "mert": ("m-a-p/MERT-v1-95M", "mert", {}),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def examine(hub: Hub, home: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run the script with an empty cache and a hub on this machine."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home / "hf"),
        "TORCH_HOME": str(home / "torch"),
    }
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(home / "hub.json"), *names, "--seconds", "0.2"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.integration if n in ("mimi", "flan-t5") else pytest.mark.slow) for n in MODELS],
)
def test_a_released_model_is_fetched_checked_and_compared(hub: Hub, tmp_path: Path, name: str) -> None:
    model, part, options = MODELS[name]
    folder = write_tiny(part, tmp_path / "tiny", **options)
    hub.files[model] = {file.name: file.read_bytes() for file in folder.iterdir()}
    result = examine(hub, tmp_path, name)
    record = json.loads((tmp_path / "hub.json").read_text())[name]
    assert result.returncode == 0, result.stdout + result.stderr + str(record)
    assert result.stdout == f"{name}: as released\n"
    assert record["commit"] == hub.commit(model)
    assert record["files"]
    assert all(record["files"][file] == sha256(folder / file) for file in record["files"])
    assert record["checks"]
    assert "passed" in record["checks"].values()
    assert all(value < 1e-4 for value in record["parity"]["transformers"].values())
    assert record["versions"].keys() >= {"codecdiff", "torch", "transformers", "python"}


@pytest.mark.integration
def test_a_model_that_is_not_there_is_a_failure_and_is_recorded(hub: Hub, tmp_path: Path) -> None:
    result = examine(hub, tmp_path, "mimi")
    assert result.returncode == 1
    assert "mimi: " in result.stdout
    assert "kyutai/mimi" in json.loads((tmp_path / "hub.json").read_text())["mimi"]["problem"]


@pytest.mark.slow
def test_the_published_file_of_vggish_is_compared_with_its_package(hub: Hub, tmp_path: Path) -> None:
    weights = write_tiny("vggish", tmp_path / "tiny") / "weights.pth"
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    shutil.copy(weights, tmp_path / "torch" / "hub" / "checkpoints" / "vggish-10086976.pth")
    result = examine(hub, tmp_path, "vggish")
    record = json.loads((tmp_path / "hub.json").read_text())["vggish"]
    assert result.returncode == 0, result.stdout + str(record)
    assert record["files"] == {"vggish-10086976.pth": sha256(weights)}
    assert record["parity"]["torchvggish"]["vectors"] < 1e-3
