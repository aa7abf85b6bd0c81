"""Small things for the tests of the core: noise, tones on disk, the options of a U-Net of some thousand parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codecdiff import Denoiser
from codecdiff.data.sealed import FILES, SEAL, write_sealed
from codecdiff.files import sha256
from codecdiff.pipeline.checkpoint import combined_fingerprint, read_config

UNET: dict[str, Any] = {
    "name": "unet",
    "width": 16,
    "multipliers": [1, 2],
    "layers": ["none", "text"],
    "heads": 2,
    "head_dim": 8,
    "groups": 4,
    "vector": None,
}
RATE = 8000  # Hz, of the tiny DAC


def model_fingerprint(folder: Path) -> str:
    """The fingerprint of the configuration and weights that a model folder holds now, without loading it."""
    homes = ["codec", *read_config(folder)["stages"]]
    names = [f"{home}/{file}" for home in homes for file in ("stage.json", "model.safetensors")]
    names = ["codecdiff.json", *names, "presets.json"]
    return combined_fingerprint({name: sha256(folder / name) for name in names if (folder / name).exists()})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tone(seconds: float, hertz: float, rate: int = RATE) -> np.ndarray:
    """(t,) a tone that fades, with some noise."""
    times = np.arange(round(seconds * rate)) / rate
    hiss = np.random.default_rng(round(hertz)).normal(0, 0.02, len(times))
    return (0.5 * np.sin(2 * np.pi * hertz * times) * np.exp(-times) + hiss).astype(np.float32)


def write_music(folder: Path, count: int = 6, seconds: float = 1.0) -> Path:
    """Write tones with captions into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        soundfile.write(folder / f"{i}.wav", tone(seconds + 0.1 * i, 200 + 50 * i), RATE)
    rows = [{"file_name": f"{i}.wav", "text": f"tone {i}", "license": "CC0"} for i in range(count)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def lively(denoiser: Denoiser) -> Denoiser:
    """Move the weights of a denoiser, so that its answers depend on everything it is told."""
    with torch.no_grad():
        for number, parameter in enumerate(denoiser.parameters()):
            parameter.add_(0.05 * noise(*parameter.shape, seed=number))
    return denoiser.eval()


def rewrite(file: Path, spec: dict[str, Any]) -> None:
    """Write a JSON file of a model again, as if these had been its contents from the start."""
    write_sealed(file, {key: value for key, value in spec.items() if key not in (FILES, SEAL)}, spec.get(FILES))


def folder_as_version_0_1(home: Path) -> None:
    """Rewrite a stage in training as version 0.1 had it: one state, and no hashes."""
    (state,) = (home / "training").iterdir()
    weights, tensors = (load_file(state / f"{name}.safetensors") for name in ("model", "state"))
    tensors |= {f"averaged.{name}": tensor for name, tensor in weights.items()}
    steps = json.loads((home / "stage.json").read_text())["training"]["steps"]
    save_file(tensors, home / "training" / "state.safetensors", {"step": str(steps)})
    shutil.rmtree(state)
    stage_as_version_0_1(home / "stage.json")


def stage_as_version_0_1(file: Path) -> None:
    """Rewrite a stage.json as the first of version 0.1, without the keys that came later."""
    spec = json.loads(file.read_text())
    old = {"sampler": spec.pop("scheduler"), "scheduler": spec.pop("train_scheduler")}
    old |= {"steps": spec.pop("num_inference_steps"), "guidance": spec.pop("guidance_scale")}
    for key in ("timestep_spacing", "final_timestep_fraction", "noise_color"):
        del spec[key]
    del old["scheduler"]["class"]
    training = {"steps": 8, "warmup": 5, "min_snr": None, "batch_size": 4}
    del spec[FILES], spec[SEAL]
    file.write_text(json.dumps({**spec, **old, "training": training}))
