"""Made files say how they were made, and can be made again with the same model alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from small import model_fingerprint, noise
from test_cli import refused, run

import codecdiff
from codecdiff import GenerationConfig, Pipeline
from codecdiff.data.audio import read_comment, write_audio
from codecdiff.data.audio_prompt import load_audio_prompt
from codecdiff.files import sha256
from codecdiff.pipeline.provenance import GenerationRequest

Make = Callable[..., Pipeline]
RATE = 8000  # Hz, of the tiny DAC


@pytest.fixture
def model(make_pipeline: Make, tmp_path: Path) -> Path:
    make_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    write_audio(tmp_path / "recording.wav", 0.2 * noise(1, 6000), RATE)
    return tmp_path / "recording.wav"


def samples(file: Path) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(file, dtype="float32")[0])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_comment_survives_its_file(tmp_path: Path, suffix: str) -> None:
    text = json.dumps({"prompt": 'a "slow" tune — für Elise\n' * 40})
    write_audio(tmp_path / f"a.{suffix}", 0.1 * noise(1, 4000), RATE, comment=text)
    assert read_comment(tmp_path / f"a.{suffix}") == text


@pytest.mark.parametrize("suffix", ["flac", pytest.param("wav", marks=pytest.mark.integration)])
def test_a_generated_file_is_made_again_bit_for_bit(model: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    result = run(
        "generate", "drums", "--negative", "piano", "-o", out, "--model", model, "--seconds", 0.1, "--takes", 2
    )
    assert result.exit_code == 0, result.output
    second = tmp_path / f"out-2.{suffix}"
    shown = run("inspect", second, "--model", model)
    assert "holds the same samples" in shown.output
    assert torch.equal(samples(tmp_path / f"out-2-again.{suffix}"), samples(second))
    assert not torch.equal(samples(tmp_path / f"out-1.{suffix}"), samples(second))
    for said in ("drums", "piano", model_fingerprint(model), codecdiff.__version__):
        assert said in shown.output.replace("\n", "")


def test_takes_are_computed_in_batches_and_each_is_made_again(model: Path, tmp_path: Path) -> None:
    words = ("generate", "drums", "--model", model, "--seconds", 0.1, "--seed", 0, "--takes", 3)
    for size in (1, 2):
        result = run(*words, "--batch-size", size, "-o", tmp_path / f"{size}.flac")
        assert result.exit_code == 0, result.output
    together = [GenerationRequest.from_file(tmp_path / f"2-{i}.flac") for i in (1, 2, 3)]
    assert [request.batch for request in together] == [(0, 2), (0, 2), None]
    assert {request.generation.batch_size for request in together} == {2}
    for i in (1, 2, 3):
        torch.testing.assert_close(
            samples(tmp_path / f"1-{i}.flac"), samples(tmp_path / f"2-{i}.flac"), atol=1e-3, rtol=0
        )
    assert "holds the same samples" in run("inspect", tmp_path / "2-2.flac", "--model", model).output
    assert GenerationRequest.from_file(tmp_path / "1-2.flac").batch is None
    assert "Invalid --batch-size 0" in refused(*words, "--batch-size", 0, "-o", tmp_path / "0.flac")
    comment = {**together[1].model_dump(mode="json", exclude_none=True), "batch": [4, 2]}
    write_audio(tmp_path / "edited.flac", 0.1 * noise(1, 4000), RATE, comment=json.dumps(comment))
    with pytest.raises(ValueError, match="removed or changed"):
        GenerationRequest.from_file(tmp_path / "edited.flac")
    again = run("inspect", tmp_path / "2-2-again.flac", "--model", model)
    assert "holds the same samples" in again.output  # it names its batch too


def test_a_command_that_was_killed_between_its_files_goes_on(model: Path, recording: Path, tmp_path: Path) -> None:
    words = ("generate", "drums", "--model", model, "--seconds", 0.1, "--takes", 2, "-o", tmp_path / "a.flac")
    assert run(*words).exit_code == 0
    files = [tmp_path / "a-1.flac", tmp_path / "a-2.flac"]
    before = [file.read_bytes() for file in files]
    files[1].unlink()
    assert run(*words).exit_code == 0  # with the seed that it drew
    assert [file.read_bytes() for file in files] == before
    again = run(*words)
    assert again.exit_code == 0
    assert "are complete: an earlier run of this command wrote them" in again.output
    assert "exists already" in refused(*words, "--negative", "piano")
    assert run(*words, "--force").exit_code == 0
    assert [file.read_bytes() for file in files] != before
    edit = ("vary", recording, "--model", model, "-o", tmp_path / "b.flac")
    assert run(*edit).exit_code == 0
    assert "is complete" in run(*edit).output
    assert "exists already" in refused(*edit, "--strength", 0.3)


def test_a_forged_comment_causes_no_more_than_an_hour_of_music(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.flac"
    assert run("generate", "drums", "-o", file, "--model", model, "--seconds", 1.0).exit_code == 0
    request = GenerationRequest.from_file(file)
    forged = request.model_copy(update={"batch": (0, 4096)})
    assert forged.bounded(0.5) == (forged, "")
    write_audio(file, samples(file)[None], RATE, comment=forged.comment())
    shown = run("inspect", file, "--model", model)
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.output.split())
    assert "It was computed beside 4,095 others, 1.1 h in all, and is now computed alone: its last bits may" in said
    assert GenerationRequest.from_file(tmp_path / "a-again.flac").batch is None
    with pytest.raises(ValueError, match="at most 1 is generated"):
        request.check_duration(4000)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    assert "it is a folder, a pipe or a device" in refused("inspect", tmp_path / "a.wav")


@pytest.mark.integration
@pytest.mark.parametrize(
    "edit",
    [
        ("refine", "--keep", "0-1"),
        ("inpaint", "--from", 0.1, "--to", 0.2, "--from", 0.5, "--to", 0.6),
        ("extend", "--seconds", 0.2),
        ("vary", "--strength", 0.5),
        ("restore", "--levels", 2),
    ],
    ids=lambda edit: edit[0],
)
def test_every_edit_is_a_command_and_is_made_again(
    make_pipeline: Make, model: Path, recording: Path, tmp_path: Path, edit: tuple[object, ...]
) -> None:
    name, *options = edit
    out = tmp_path / "out.flac"
    result = run(name, recording, *options, "--prompt", "drums", "-o", out, "--model", model, "--seed", 3)
    assert result.exit_code == 0, result.output
    codec = make_pipeline().codec
    added = -(-RATE // 5 // codec.hop_length) * codec.hop_length if name == "extend" else 0
    whole = 6000 // codec.hop_length * codec.hop_length if name == "extend" else 6000
    assert abs(len(samples(out)) - whole - added) <= codec.hop_length
    again = run("inspect", out, "--model", model, "--source", recording)
    assert "holds the same samples" in again.output, again.output
    assert not torch.equal(samples(out)[:1000], samples(recording)[:1000])


def test_an_edit_keeps_the_codes_it_says_it_keeps(make_pipeline: Make, model: Path, recording: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    told = {"codecdiff": "0.1.0", "model": "", "prompt": {"text": "drums"}}
    request = GenerationRequest.model_validate({**told, "edit": {"name": "refine", "keep": [0, 2]}})
    assert request.edit is not None
    known, samples = request.edit.apply_to_audio(recording, pipeline.codec, pipeline.target)
    assert samples == 6000
    codes = next(iter(pipeline.generate_codes([{"text": "drums"}], known.frames, edit=known)))
    assert torch.equal(codes[:, [0, 2]], known.codes[:, [0, 2]])
    assert not torch.equal(codes[:, [1, 3]], known.codes[:, [1, 3]])


def test_another_model_does_not_make_it_again(make_pipeline: Make, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    run("generate", "drums", "-o", out, "--model", model, "--seconds", 0.1)
    other = make_pipeline()
    other.stages[0].sampling.num_inference_steps = 2
    other.save_pretrained(tmp_path / "other")
    said = refused("inspect", out, "--model", tmp_path / "other")
    assert f"generated by the model {model_fingerprint(model)}" in said.replace("\n", "")
    assert not (tmp_path / "out-again.wav").exists()


def test_another_source_does_not_make_it_again(model: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    run("refine", recording, "-o", out, "--model", model)
    said = refused("inspect", out, "--model", model).replace("\n", " ")
    assert "It was edited from 'recording.wav' with SHA-256" in said
    assert said.endswith("Name it with --source FILE. ")
    write_audio(tmp_path / "other.wav", 0.2 * noise(1, 6000, seed=1), RATE)
    assert "is another file" in refused("inspect", out, "--model", model, "--source", tmp_path / "other.wav").replace(
        "\n", " "
    )


def test_an_edit_has_the_prompt_of_its_source_unless_another_is_named(model: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    run("generate", "drums", "-o", song, "--model", model, "--seconds", 0.5)
    for name, options, text in (("a", (), "drums"), ("b", ("--prompt", ""), ""), ("c", ("--prompt", "piano"), "piano")):
        out = tmp_path / f"{name}.wav"
        result = run("inpaint", song, "-o", out, "--from", 0.1, "--to", 0.25, "--model", model, *options)
        assert ("Prompt of the source: drums (for none, add --prompt '')" in result.output) == (not options)
        assert ("Describe the music with --prompt." in result.output) == (not text)
        assert GenerationRequest.from_file(out).prompt.get("text") == text
    shown = run("inspect", out).output
    assert re.search(r"edit +│ inpaint, from 0\.1 to 0\.25 s *\n", shown)
    assert re.search(r"source +│ song\.wav *\n", shown)


def test_the_comment_of_version_0_1_is_read(tmp_path: Path) -> None:
    comment = {"codecdiff": "0.1.0", "model": "", "prompt": {"text": "drums"}, "negative": {"text": "piano"}}
    comment |= {"seconds": 0.1, "seed": 3, "take": 2, "steps": 4, "guidance": {"text": 2.0}}
    write_audio(tmp_path / "a.flac", 0.1 * noise(1, 4000), RATE, comment=json.dumps(comment))
    request = GenerationRequest.from_file(tmp_path / "a.flac")
    assert request.generation == GenerationConfig(
        audio_length_in_s=0.1,
        negative_prompt={"text": "piano"},
        seed=3,
        first_sample_index=2,
        num_inference_steps=4,
        guidance_scale={"text": 2.0},
        loudness="off",
    )
    assert request.prompt == {"text": "drums"}
    write_audio(tmp_path / "b.flac", 0.1 * noise(1, 4000), RATE, comment=request.comment())
    assert GenerationRequest.from_file(tmp_path / "b.flac") == request


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "made by hand",
        "[]",
        "{}",
        '{"model": "x", "prompt": {}, "import": "os"}',
        '{"model": 1, "prompt": {}}',
        '{"codecdiff": "1", "model": "", "prompt": {}, "seed": "5"}',
        '{"codecdiff": "1", "model": "", "prompt": {}, "generation": {"seed": "5"}}',
        '{"codecdiff": "1", "model": "", "prompt": {}, "generation": {"num_waveforms_per_prompt": 1000000}}',
        '{"codecdiff": "1", "model": "\\u001b[2J", "prompt": {}}',
        '{"codecdiff": "1", "model": "", "prompt": {}, "seed": ' + "9" * 5000 + "}",
        "[" * 9999,
    ],
)
def test_a_stranger_s_comment_is_read_strictly(tmp_path: Path, comment: str) -> None:
    file = tmp_path / "a.flac"
    write_audio(file, 0.1 * noise(1, 4000), RATE, comment=comment)
    with pytest.raises(ValueError, match="was not generated by codecdiff"):
        GenerationRequest.from_file(file)
    assert "was not generated by codecdiff" in refused("inspect", file).replace("\n", " ")


def test_audio_that_was_asked_with_is_told_by_its_hash(recording: Path, tmp_path: Path) -> None:
    told = GenerationRequest(codecdiff="1", model="", prompt={"text": "", "audio": str(recording)})
    write_audio(tmp_path / "a.flac", 0.1 * noise(1, 4000), RATE, comment=told.comment())
    again = GenerationRequest.from_file(tmp_path / "a.flac")
    assert again.prompt["audio"] == {"sha256": sha256(recording)}
    with pytest.raises(ValueError, match="known by its hash alone"):
        load_audio_prompt(again.prompt["audio"], RATE)


@pytest.mark.parametrize("audio", ["/etc/hostname", {"file": "/etc/hostname"}, 3])
def test_a_stranger_s_comment_names_no_file(tmp_path: Path, audio: object) -> None:
    told = {"codecdiff": "1", "model": "", "prompt": {"audio": audio}}
    write_audio(tmp_path / "a.flac", 0.1 * noise(1, 4000), RATE, comment=json.dumps(told))
    with pytest.raises(ValueError, match="names a file of another machine"):
        GenerationRequest.from_file(tmp_path / "a.flac")


def test_a_stranger_s_comment_commands_neither_terminal_nor_hours(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.flac"
    told = {
        "codecdiff": "1",
        "model": model_fingerprint(model),
        "prompt": {"text": "a\x1b[2J\x9bb"},
        "seconds": 3600,
    }
    write_audio(file, 0.1 * noise(1, RATE), RATE, comment=json.dumps(told))
    shown = run("inspect", file).output
    assert not [c for c in shown if not (c.isprintable() or c == "\n")]
    said = refused("inspect", file, "--model", model).replace("\n", " ")
    assert "requests 3600 s, but the file has 1 s" in said


def test_nothing_is_written_over(model: Path, recording: Path, tmp_path: Path) -> None:
    before = recording.read_bytes()
    assert "is the source itself" in refused("refine", recording, "-o", recording, "--model", model)
    out = tmp_path / "out.wav"
    run("generate", "drums", "-o", out, "--model", model, "--seconds", 0.1)
    assert "exists already" in refused("inspect", out, "--model", model, "-o", out)
    assert recording.read_bytes() == before


def test_a_prompt_too_long_for_a_comment_is_no_reason_not_to_make_music(model: Path, tmp_path: Path) -> None:
    options = ("--model", model, "--seconds", 0.1)
    result = run("generate", "drums " * 10_000, "-o", tmp_path / "out.wav", *options)
    assert result.exit_code == 0
    assert "out.wav was written without its prompt and settings" in " ".join(result.output.split())
    assert read_comment(tmp_path / "out.wav") == ""
    for name, count in (("out.flac", 10_000), ("shorter.wav", 4000)):
        run("generate", "drûms " * count, "-o", tmp_path / name, *options)
        assert GenerationRequest.from_file(tmp_path / name).prompt["text"] == "drûms " * count


@pytest.mark.parametrize(
    ("edit", "message"),
    [(("vary", "--strength", 2), "Invalid --strength 2.0: "), (("extend", "--seconds", 0), "Invalid --seconds 0.0: ")],
)
def test_an_option_out_of_range_is_one_sentence(recording: Path, edit: tuple[object, ...], message: str) -> None:
    name, *options = edit
    said = refused(name, recording, *options, "-o", recording.with_name("out.wav"))
    assert said.startswith(message)
    assert "pydantic" not in said


def test_a_fingerprint_follows_what_music_follows_from(make_pipeline: Make, model: Path, tmp_path: Path) -> None:
    first = model_fingerprint(model)
    (model / "README.md").write_text("a card")
    (model / "primary" / "training").mkdir()
    (model / "primary" / "training" / "state.safetensors").write_bytes(b"state")
    assert model_fingerprint(model) == first == Pipeline.from_pretrained(model).fingerprint
    assert make_pipeline().fingerprint is None
    (model / "secondary" / "stage.json").write_text((model / "secondary" / "stage.json").read_text() + " ")
    assert model_fingerprint(model) != first


def test_a_missing_source_and_uneven_regions_are_explained(model: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    assert "does not exist" in refused("refine", tmp_path / "none.wav", "-o", out, "--model", model)
    assert "2 --from and 1 --to" in refused("inpaint", recording, "--from", 0, "--from", 1, "--to", 2, "-o", out)
    assert "Invalid region 0.4 to 0.2 s" in refused(
        "inpaint", recording, "--from", 0.4, "--to", 0.2, "-o", out, "--model", model
    )
    assert not out.exists()
