"""Controls of audio files: what they say of music that is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_controls import AudioReference, Beats, Chroma, Control, Loudness, Notes
from codecdiff_controls.conditioner import SAMPLE_RATE, beat_features
from torch import Tensor

from codecdiff.conditioners import JoinedConditioner
from codecdiff.errors import InvalidValue, UserError
from codecdiff.testing import check_conditioner
from codecdiff.testing.clips import example_audio

SLOW = pytest.mark.integration  # it compiles the search for beats
CONTROLS = [Chroma, Notes, pytest.param(Beats, marks=SLOW), Loudness, AudioReference]


def tones(*notes: tuple[float, float], rate: int = SAMPLE_RATE) -> Tensor:
    """Return (1, t) tones of so many Hz and seconds, with harmonics."""
    parts = []
    for hertz, seconds in notes:
        times = torch.arange(round(seconds * rate)) / rate
        parts.append(sum(torch.sin(2 * math.pi * n * hertz * times) / n for n in range(1, 5)))
    return 0.2 * torch.cat(parts)[None]


def clicks(bpm: float, seconds: float, first: float = 0.0) -> Tensor:
    """Return (1, t) clicks of 20 ms at a tempo."""
    times = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    since = (times - first) % (60 / bpm)
    noise = torch.randn(len(times), generator=torch.Generator().manual_seed(0))
    return (0.3 * noise * torch.exp(-since / 0.02) * (times >= first))[None]


def tokens(control: Control, audio: Tensor) -> Tensor:
    """Return the tokens (n, e) of audio."""
    entry = control.encode([{"controls": {control.name: (audio, SAMPLE_RATE)}}])[control.name]
    return entry.tokens[0][entry.mask[0]]


@pytest.mark.parametrize(
    "kind", [Loudness, *(pytest.param(kind, marks=SLOW) for kind in (Chroma, Notes, Beats, AudioReference))]
)
def test_controls_keep_the_laws(kind: type[Control], tmp_path: Path) -> None:
    control, files = kind(), [str(file) for file in example_audio(tmp_path)]
    soundfile.write(tmp_path / "clicks.wav", clicks(100, 3).T.numpy(), SAMPLE_RATE)
    names = [str(tmp_path / "clicks.wav"), *files] if kind is Beats else [*files, files[0]]
    check_conditioner(control, [{"controls": {control.name: file}} for file in names])


def test_chroma_is_of_the_notes_that_sound() -> None:
    chroma = tokens(Chroma(), tones((261.63, 1), (440.0, 1), (987.77, 1)))  # C4, A4, B5
    assert chroma.shape == (-(-3 * SAMPLE_RATE // 512), 12)
    second = SAMPLE_RATE // 512
    for i, pitch in enumerate((0, 9, 11)):
        part = chroma[i * second + 6 : (i + 1) * second - 6]
        assert (part.argmax(1) == pitch).all()
    assert float(chroma.square().mean()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", [Chroma, Notes])
def test_silence_has_no_notes(kind: type[Control]) -> None:
    second = SAMPLE_RATE // 512
    features = tokens(kind(), torch.cat([tones((440.0, 1)), torch.zeros(1, SAMPLE_RATE)], 1))
    assert features[second + 20 :].abs().max() < 0.05 * features[:second].max()
    assert not tokens(kind(), torch.zeros(1, SAMPLE_RATE)).any()


def test_an_octave_or_a_louder_tone_is_the_same_chroma() -> None:
    low, high = (tokens(Chroma(), tones((hertz, 1))) for hertz in (220.0, 440.0))
    assert (torch.cosine_similarity(low, high)[5:-5] > 0.9).all()
    torch.testing.assert_close(tokens(Chroma(), 0.1 * tones((220.0, 1))), low, atol=1e-3, rtol=0)


def test_notes_are_in_their_octaves() -> None:
    notes = tokens(Notes(), tones((65.41, 1), (440.0, 1)))  # C2, A4
    assert notes.shape == (-(-2 * SAMPLE_RATE // 512), 84)
    second = SAMPLE_RATE // 512
    assert (notes[10 : second - 10].argmax(1) == 12).all()
    assert (notes[second + 10 : 2 * second - 10].argmax(1) == 45).all()
    softer = tokens(Notes(), torch.cat([tones((440.0, 1)), 0.25 * tones((440.0, 1))], 1))
    assert float(softer[2 * second - 20, 45] / softer[20, 45]) == pytest.approx(0.5, abs=0.02)
    low = tokens(Notes(), tones((220.0, 1)))
    torch.testing.assert_close(tokens(Notes(), 0.1 * tones((220.0, 1))), low, atol=1e-3, rtol=0)


@SLOW
@pytest.mark.parametrize("bpm", [90, 120, 150])
def test_beats_are_where_clicks_are(bpm: float) -> None:
    features, rate = tokens(Beats(), clicks(bpm, 8, first=0.3)), Beats().control_rates["beats"]
    pulses = [i for i in range(1, len(features) - 1) if features[i - 1, 2] <= features[i, 2] > features[i + 1, 2]]
    times = (np.array(pulses) + 0.5) / rate
    times = times[times > 1]
    offset = (times - 0.3 + 30 / bpm) % (60 / bpm) - 30 / bpm
    assert len(times) > 5
    assert (np.abs(offset) < 0.05).mean() > 0.9
    assert np.median(np.diff(times)) == pytest.approx(60 / bpm, abs=0.03)


def test_positions_between_beats_and_beyond_them() -> None:
    times = np.array([0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 4.5])
    features = beat_features(np.array([1.0, 2.0, 4.0]), times)
    assert features is not None
    angle = 2 * np.pi * np.array([-0.5, 0, 0.25, 0.5, 1, 1.5, 2, 2.25])
    np.testing.assert_allclose(features[:, 0], math.sqrt(2) * np.sin(angle), atol=1e-9)
    np.testing.assert_allclose(features[:, 1], math.sqrt(2) * np.cos(angle), atol=1e-9)
    assert features[:, 2].tolist() == [0, 4, 0, 0, 4, 0, 4, 0]
    assert beat_features(np.array([1.0]), times) is None


@SLOW
def test_music_without_beats_has_none() -> None:
    with pytest.warns(UserWarning, match="The file has no beats: this control is absent"):
        assert len(tokens(Beats(), torch.zeros(1, 2 * SAMPLE_RATE))) == 0


def test_loudness_is_relative_to_the_mean() -> None:
    tone, second = tones((440.0, 2)), SAMPLE_RATE // 512
    audio = torch.cat([tone, 0.1 * tone], 1)
    loudness = tokens(Loudness(), audio)[:, 0]
    assert float(loudness[second] - loudness[3 * second]) == pytest.approx(2.0, abs=0.02)  # 20 dB
    assert float((10**loudness).mean()) == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(tokens(Loudness(), 0.3 * audio)[:, 0], loudness, atol=1e-3, rtol=0)


def test_a_reference_says_which_bands_sound_when() -> None:
    reference = tokens(AudioReference(bands=8, smooth_seconds=0.2), tones((110.0, 2), (3000.0, 2)))
    assert reference.shape[1] == 8
    low, high = reference[8], reference[-8]
    assert low.argmax() < high.argmax()
    smooth = tokens(AudioReference(bands=8, smooth_seconds=2.0), tones((110.0, 2), (3000.0, 2)))
    half, one_and_a_half = (round(seconds * SAMPLE_RATE / AudioReference.hop) for seconds in (0.5, 1.5))
    assert abs(reference[half, 0] - reference[one_and_a_half, 0]) < 0.02
    assert smooth[half, 0] - smooth[one_and_a_half, 0] > 0.05  # it hears the change half a second ahead


@pytest.mark.parametrize("kind", CONTROLS)
def test_a_moment_of_audio_is_enough(kind: type[Control]) -> None:
    assert len(tokens(kind(), 0.1 * torch.ones(1, 50))) <= 1


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"controls": "song.wav"}, r"controls='song\.wav': the field 'controls' of a prompt is a mapping of names"),
        ({"controls": {"chroma": "song.wav"}}, r"audio file 'song\.wav' does not exist"),
        ({"controls": {"chroma": __file__}}, "cannot be read|not audio"),
        ({"controls": {"chroma": 3}}, "a path, a mapping of file, start and seconds"),
    ],
)
def test_controls_that_are_no_audio_are_refused(prompt: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Chroma().encode([prompt])


@pytest.mark.parametrize(
    ("options", "message"), [({"bands": 0}, "Invalid bands 0"), ({"smooth_seconds": -1.0}, "Invalid smooth_seconds -1")]
)
def test_invalid_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        AudioReference(**options)


# The whole way


@pytest.mark.integration
@pytest.mark.parametrize("denoiser", ["unet", "dit"])
def test_train_generate_edit_and_inspect(tmp_path: Path, denoiser: str) -> None:
    pytest.importorskip("codecdiff_starter")
    pytest.importorskip(f"codecdiff_{denoiser}")
    from typer.testing import CliRunner

    from codecdiff.cli.main import app

    def run(*words: object, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == exit_code, result.output
        return " ".join(result.output.split())

    music = tmp_path / "music"
    music.mkdir()
    for i in range(4):
        soundfile.write(
            music / f"{i}.wav", (clicks(90 + 10 * i, 3) + tones((220.0 + 20 * i, 3))).T.numpy(), SAMPLE_RATE
        )
    rows = [json.dumps({"file_name": f"{i}.wav", "text": f"tone {i}"}) for i in range(4)]
    (music / "metadata.jsonl").write_text("\n".join(rows))
    controls = [{"name": "chroma"}, {"name": "beats"}, {"name": "loudness"}, {"name": "audio-reference"}]
    cached = {"name": "cached", "folder": str(tmp_path / "features"), "conditioner": {"name": "joined"}}
    cached["conditioner"] = {"name": "joined", "conditioners": controls}
    small: dict[str, Any] = {
        "unet": {"width": 16, "multipliers": [1, 1], "layers": ["none"], "heads": 2, "head_dim": 8, "groups": 4},
        "dit": {"width": 16, "depth": 1, "heads": 2},
    }
    options = {**small[denoiser], "controls": ["chroma", "beats", "loudness", "audio-reference"], "vector": "text"}
    names = ("chroma", "beats", "loudness", "audio-reference")
    settings = {
        "output": str(tmp_path / "run"),
        "data": {"audio": str(music)},
        "codec": {"name": "starter-neural"},
        "splitter": {"name": "coarse-first"},
        "conditioner": {"name": "joined", "conditioners": [{"name": "words"}, cached]},
        "denoiser": {"name": denoiser, **options},
        "train": {
            "max_train_steps": 2,
            "train_batch_size": 2,
            "crop_seconds": 0.5,
            "dropout": {"text": 0.5, "chroma": 0.2},
        },
        "sampling": {"num_inference_steps": 2, "guidance_scale": {"text": 2, "chroma": 3}},
        "prompts": ["a tone"],
        "seconds": 1.0,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    assert "train.dropout.chrma: the model has no such condition" in run(
        "train", "--config", tmp_path / "config.yaml", "train.dropout={chrma: 0.2}", exit_code=1
    )
    run("train", "--config", tmp_path / "config.yaml")

    model, song, out = tmp_path / "run" / "model", music / "1.wav", tmp_path / "out.flac"
    words = ["--model", model, "--seconds", 2, "--seed", 1, "-o", out]
    given = [word for name in names for word in ("--control", f"{name}={song}")]
    refusal = run("generate", "a tone", *words, "--seconds", 5, *given, exit_code=1)
    assert "The control chroma has 3.02 s of audio, and the music is to have 5.0" in refusal
    assert not out.exists()
    run("generate", "a tone", *words, *given, "--guidance-scale", "beats=2")
    assert "a tone, controls chroma" in run("inspect", out)
    again = ["inspect", out, "--model", model]
    assert "--control is missing" in run(*again, exit_code=1)
    assert "is another file" in run(*again, "--control", f"chroma={music / '2.wav'}", *given[2:], exit_code=1)
    assert "holds the same samples" in run(*again, *given)
    run("inpaint", out, "--from", 0.5, "--to", 1, "--model", model, "-o", tmp_path / "edit.flac", *given)
    assert "holds the same samples" in run("inspect", tmp_path / "edit.flac", "--model", model, "--source", out, *given)


def test_joined_controls_have_their_own_guidance() -> None:
    from codecdiff.diffusion.guidance import resolve_guidance

    joined = JoinedConditioner([Chroma(), Beats()])
    assert joined.control_rates == {"chroma": SAMPLE_RATE / 512, "beats": SAMPLE_RATE / 256}
    assert resolve_guidance({"chroma": 3, "beats": 1}, joined) == {"chroma": 3, "beats": 1}
