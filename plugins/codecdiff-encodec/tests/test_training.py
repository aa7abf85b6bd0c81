"""From stereo recordings to stereo samples, on a small EnCodec of 48 kHz."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from small import UNET, tone

import codecdiff
from codecdiff.data.audio import read_audio
from codecdiff.testing.tiny import write_tiny

RECIPE = Path(__file__).parents[3] / "recipes" / "discodiff.py"
RATE = 48000  # Hz


@pytest.fixture
def settings(tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    for i in range(3):
        channels: list[np.ndarray] = [tone(0.5, hertz * (i + 1), RATE) for hertz in (200, 300)]
        soundfile.write(music / f"{i}.wav", np.stack(channels, axis=1), RATE)
    codec = {
        "name": "encodec",
        "model": str(write_tiny("encodec", tmp_path / "encodec", size="tiny-48khz")),
        "bandwidth": 3,
    }
    file = tmp_path / "stereo.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "output": str(tmp_path / "out"),
                "codec": codec,
                "splitter": {"name": "coarse-first"},
                "denoiser": {**UNET, "layers": ["none"]},
                "data": {"audio": str(music), "validation_fraction": 0.3},
                "train": {
                    "max_train_steps": 2,
                    "warmup_steps": 0,
                    "train_batch_size": 2,
                    "crop_seconds": 0.2,
                    "checkpointing_steps": 2,
                },
                "diffusion": {"num_train_timesteps": 100},
                "sampling": {"scheduler": "ddim", "num_inference_steps": 2, "guidance_scale": 1.0},
                "seconds": 0.3,
            }
        )
    )
    return file


@pytest.mark.integration
def test_stereo_is_trained_on_and_generated(settings, monkeypatch):
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    assert spec
    assert spec.loader
    recipe = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "recipe", recipe)
    spec.loader.exec_module(recipe)
    recipe.train(settings)
    sample = settings.parent / "out" / "samples" / "00.wav"
    assert (soundfile.info(sample).channels, soundfile.info(sample).samplerate) == (2, RATE)
    written = read_audio(sample, RATE, 2)
    assert written.shape == (2, 0.3 * RATE)
    assert not torch.allclose(written[0], written[1], atol=1e-3)
    pipeline = codecdiff.load(settings.parent / "out" / "model")
    assert pipeline.codec.arguments["codec"].arguments["bandwidth"] == 3.0
    torch.testing.assert_close(pipeline([""], audio_length_in_s=0.3).audios[0], written, rtol=0, atol=1e-3)
