"""Descriptions by a tiny Qwen2-Audio: the released loading code, no sampling, the window that is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_datasets.captioners.describe import PROMPT, Describe, first_sentences, read_window
from codecdiff_datasets.captioning import caption_config
from codecdiff_datasets.testing import check_captioner
from tiny_qwen2_audio import random_model
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
from typer.testing import CliRunner

from codecdiff.cli.main import app
from codecdiff.data.audio import BadAudio
from codecdiff.data.manifest import Manifest, ManifestRow

RATE = 16_000  # Hz
WORDS = 12  # tokens of an answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("qwen"), seed=3, seconds=4)


@pytest.fixture(scope="module")
def describe(folder: Path) -> Describe:
    return Describe(str(folder), max_tokens=WORDS, dtype="float32", seconds=2.0, device="cpu")


def write(file: Path, seconds: float, rate: int = RATE, channels: int = 1) -> Path:
    """Write a tone that rises, so that no two windows are alike."""
    times = np.arange(round(seconds * rate)) / rate
    samples = 0.5 * np.sin(2 * np.pi * (200 + 150 * times) * times)
    soundfile.write(file, np.repeat(samples[:, None], channels, 1), rate, subtype="FLOAT")
    return file


def test_a_description_is_the_likeliest_token_each_time(describe: Describe, folder: Path, tmp_path: Path) -> None:
    network = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    assert network.generation_config.do_sample  # as the released model's file says
    file = write(tmp_path / "a.wav", 2.0)
    samples = soundfile.read(file, dtype="float32")[0]
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=text, audio=[samples], sampling_rate=RATE, return_tensors="pt")
    tokens, told = inputs["input_ids"], []
    for _ in range(WORDS):
        features = {key: inputs[key] for key in ("input_features", "feature_attention_mask")}
        with torch.no_grad():
            logits = network(input_ids=tokens, attention_mask=torch.ones_like(tokens), **features).logits
        told.append(int(logits[0, -1].argmax()))
        if told[-1] in network.generation_config.eos_token_id:
            break
        tokens = torch.cat([tokens, torch.tensor([told[-1:]])], dim=1)
    expected = first_sentences(processor.decode(told, skip_special_tokens=True), cut=len(told) == WORDS)
    assert describe.caption({"file": str(file), "present": True}) == expected


def test_describe_obeys_the_laws(describe: Describe, tmp_path: Path) -> None:
    files = [write(tmp_path / "a.wav", 2.0), write(tmp_path / "b.wav", 5.0, rate=44_100, channels=2)]
    check_captioner(describe, [{"file": str(file), "present": True} for file in files])


def test_a_shorter_track_is_heard_whole_and_a_longer_one_in_its_middle(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", 3.0)
    samples = soundfile.read(file, dtype="float32")[0]
    assert np.array_equal(read_window(file, RATE, 1.0), samples[RATE : 2 * RATE])
    assert np.array_equal(read_window(file, RATE, 1.0, 0.5), samples[RATE // 2 : 3 * RATE // 2])
    assert np.array_equal(read_window(file, RATE, 1.0, 2.5), samples[5 * RATE // 2 :])
    assert np.array_equal(read_window(file, RATE, 30.0), samples)
    with pytest.raises(BadAudio, match="no audio 3 s from its beginning"):
        read_window(file, RATE, 1.0, 3.0)


def test_a_window_is_mixed_down_and_resampled(tmp_path: Path) -> None:
    times = np.arange(44_100 * 2) / 44_100
    left, right = (0.3 * np.sin(2 * np.pi * hertz * times) for hertz in (440, 1000))
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 44_100, subtype="FLOAT")
    window = read_window(tmp_path / "a.wav", RATE, 1.0, 0.5)
    heard = np.arange(RATE) / RATE + 0.5
    expected = 0.15 * (np.sin(2 * np.pi * 440 * heard) + np.sin(2 * np.pi * 1000 * heard))
    assert window.dtype == np.float32
    assert abs(len(window) - RATE) <= 1
    inner = slice(500, RATE - 500)  # the resampler knows nothing of what lies outside
    assert np.abs(window[inner] - expected[inner]).max() < 1e-3


def test_what_cannot_be_heard_is_told(describe: Describe, tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_text("no music")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for file in ("text.mp3", "empty.wav", "none.wav"):
        with pytest.raises(BadAudio, match=file):
            describe.caption({"file": str(tmp_path / file), "present": True})
    with pytest.raises(LookupError, match="audio is missing"):
        describe.caption({"file": str(tmp_path / "none.wav"), "present": False})


@pytest.mark.parametrize(
    ("text", "cut", "kept"),
    [
        ("One. Two! Three? Four.", False, "One. Two! Three?"),
        ("One.\nTwo is 3.5 beats. And then", True, "One. Two is 3.5 beats."),
        ("One.\nTwo, which just ends", False, "One. Two, which just ends"),
        ("Cut before it ever en", True, "Cut before it ever en"),
        ("One. Two.", True, "One. Two."),
        (" \n", True, ""),
    ],
)
def test_three_sentences_are_kept(text: str, cut: bool, kept: str) -> None:
    assert first_sentences(text, cut=cut) == kept


def test_options_out_of_range_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="up to 4 s at once, but seconds is 31"):
        Describe(str(folder), seconds=31.0)
    with pytest.raises(ValueError, match="start is -1"):
        Describe(str(folder), start=-1.0)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        Describe(str(folder), max_tokens=0)


def test_a_missing_or_incomplete_model_is_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"(?s)'.*nowhere'.*hf download"):
        Describe(str(tmp_path / "nowhere"))
    half = Path(shutil.copytree(folder, tmp_path / "half"))
    network = Qwen2AudioForConditionalGeneration.from_pretrained(folder)
    weights = dict(network.state_dict())
    lost = next(name for name in weights if "projector" in name and name.endswith("weight"))
    network.save_pretrained(half, state_dict={name: value for name, value in weights.items() if name != lost})
    with pytest.raises(ValueError, match=r"1 of its weights are missing, .*projector"):
        Describe(str(half))


def test_nothing_learns_and_the_device_is_not_recorded(describe: Describe) -> None:
    assert not any(parameter.requires_grad for parameter in describe.network.parameters())
    assert not any(module.training for module in describe.network.modules())
    spec = caption_config(describe)
    assert "device" not in spec
    assert (spec["name"], spec["seconds"], spec["start"], spec["revision"]) == ("describe", 2.0, None, None)


def test_the_command_describes_a_manifest(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 1.0)
    recordings = [ManifestRow("a", "a.wav", present=True), ManifestRow("b", "b.wav", present=False)]
    Manifest(tmp_path, recordings).write(tmp_path / "m.parquet")
    words = ["data", "caption", str(tmp_path / "m.parquet"), "-o", str(tmp_path / "d.jsonl"), "--with", "describe"]
    words += ["--set", f"model={folder}", "--set", "max_tokens=4", "--set", "dtype=float32", "--set", "seconds=1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "1 captions and 1 failures" in result.output
    assert "b: Its audio is missing." in result.output
