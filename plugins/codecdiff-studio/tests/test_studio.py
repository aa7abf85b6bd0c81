"""What the tabs call: limits, commands that generate the same, figures of codes; and the API of a running studio."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shlex
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote

import gradio as gr
import httpx
import numpy as np
import pytest
import soundfile
from codecdiff_studio.app import EndedSessions, launch, new_app
from codecdiff_studio.command import check_address, is_loopback, parse_login
from codecdiff_studio.edit_tab import EditTab
from codecdiff_studio.fields import PromptFields
from codecdiff_studio.model_tab import licenses_of, model_card_of
from codecdiff_studio.plots import codes_figure, player, plot_spectrogram
from codecdiff_studio.studio import Limits, Studio, Waveform, new_prompt, shown_errors
from gradio import processing_utils
from gradio_client import Client
from PIL import Image
from small import RATE, UNET, lively, tone
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import StreamingResponse
from starlette.routing import Route
from typer.testing import CliRunner

from codecdiff import Extend, Inpaint, Pipeline, Refine, Restore, Vary
from codecdiff.cli.main import app
from codecdiff.errors import InvalidValue
from codecdiff.pipeline import GenerationConfig, GenerationRequest

SESSION = "a-session"
LIMITS = Limits(seconds=1.0, waveforms=3, queue=8, steps=5, letters=100)


def silent(*steps: Any, **words: Any) -> None: ...


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> Pipeline:
    make_pipeline().save_pretrained(tmp_path / "model")
    return Pipeline.from_pretrained(tmp_path / "model")


@pytest.fixture
def studio(pipeline: Pipeline, tmp_path: Path) -> Studio:
    (tmp_path / "files").mkdir()
    return Studio({str(tmp_path / "model"): pipeline}, tmp_path / "files", LIMITS)


def run_again(command: str, output: Path, source: Path | None = None) -> np.ndarray:
    """Run a command that the studio shows and return the samples that it writes."""
    words = shlex.split(command)[1:]
    words = [str(source) if source and word == source.name else word for word in words]
    result = CliRunner().invoke(app, [words[0], "-o", str(output), *words[1:]])
    assert result.exit_code == 0, result.output
    files = sorted(output.parent.glob(f"{output.stem}*"))
    return np.concatenate([soundfile.read(file)[0] for file in files])


def samples(*waveforms: Waveform) -> np.ndarray:
    return np.concatenate([soundfile.read(each.file)[0] for each in waveforms])


def test_the_command_generates_the_same(studio: Studio, tmp_path: Path) -> None:
    options = {
        "audio_length_in_s": 0.4,
        "seed": "5",  # what the page has in a field of text
        "num_waveforms_per_prompt": 2,
        "num_inference_steps": "2",
        "guidance_scale": "1.5",
        "negative_prompt": "it's <b>loud</b>",
    }
    waveforms = studio.generate(SESSION, silent, {"text": "a 'tone' & $HOME"}, options)
    assert [each.file.suffix for each in waveforms] == [".flac", ".flac"]
    again = run_again(waveforms[0].command, tmp_path / "again.flac")
    assert np.array_equal(samples(*waveforms), again)
    generation = GenerationRequest.from_file(waveforms[1].file).generation
    assert (generation.first_sample_index, generation.seed, generation.num_inference_steps) == (1, 5, 2)
    assert all(each.file.with_suffix(".png").is_file() for each in waveforms)


@pytest.mark.parametrize(
    "edit",
    [
        Inpaint(regions=((0.1, 0.3),)),
        Inpaint(regions=((0.1, 0.3),), levels=(1, 2)),
        Refine(keep=(0, 1)),
        Extend(seconds=0.2),
        Vary(strength=0.5),
        Restore(levels=2),
    ],
    ids=lambda edit: edit.name + ("-levels" if getattr(edit, "levels", None) and edit.name == "inpaint" else ""),
)
def test_the_command_of_an_edit_edits_the_same(studio: Studio, tmp_path: Path, edit: Any) -> None:
    (song,) = studio.generate(SESSION, silent, {"text": "a tone"}, {"audio_length_in_s": 0.5, "num_inference_steps": 2})
    source = studio.encode(song.file)
    options = {"seed": 3, "num_inference_steps": 2, "quality": "fast"}
    edited = studio.edit(SESSION, silent, source, edit, {"text": "drums"}, options)
    assert shlex.split(edited.command)[:3] == ["codecdiff", edit.name, song.file.name]
    assert np.array_equal(samples(edited), run_again(edited.command, tmp_path / "again.flac", song.file))
    if isinstance(edit, Inpaint):
        levels = edit.levels or range(len(source.codes))
        others = [i for i in range(len(source.codes)) if i not in levels]
        assert np.array_equal(edited.codes[others], source.codes[others])
        assert not np.array_equal(edited.codes, source.codes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"audio_length_in_s": 1.5}, "Audio of 1.5 s is longer than the 1 s"),
        ({"num_waveforms_per_prompt": 4}, "num_waveforms_per_prompt=4: the studio allows at most 3"),
        ({"num_inference_steps": 6}, "num_inference_steps=6: the studio allows at most 5"),
        ({"negative_prompt": "x" * 200}, "200 letters: the studio allows at most 100"),
        ({"seed": -4}, "Invalid seed=-4"),
        ({"guidance_scale": "loud"}, "Invalid guidance_scale='loud'"),
        ({"negative_prompt": {"audio": "/etc/passwd"}}, "the studio takes a text"),
        ({"steps": 3}, "Unexpected option 'steps'"),
        ({"first_sample_index": 3}, "Invalid option 'first_sample_index': the studio takes audio_length_in_s"),
    ],
)
def test_what_is_over_a_limit_is_refused(studio: Studio, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(said)):
        studio.generate(SESSION, silent, {"text": ""}, {"audio_length_in_s": 0.2, **options})
    assert list(studio.folder.iterdir()) == []


def test_other_models_and_extensions_over_the_limit_are_refused(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="No model 'other'"):
        studio.generate(SESSION, silent, {"text": ""}, {}, "other")
    soundfile.write(tmp_path / "a.wav", np.zeros(6400), 8000)
    source = studio.encode(tmp_path / "a.wav")
    with pytest.raises(InvalidValue, match="is longer than the 1 s"):
        studio.edit(SESSION, silent, source, Extend(seconds=0.5), {"text": ""}, {})
    soundfile.write(tmp_path / "long.wav", np.zeros(24_000), 8000)
    with pytest.raises(InvalidValue, match=r"Audio of 3 s is longer than the 1 s"):
        studio.encode(tmp_path / "long.wav")


def test_a_run_reports_its_steps_and_is_stopped_by_its_session_alone(studio: Studio) -> None:
    seen: list[tuple[Any, str]] = []

    def progress(steps: Any, desc: str, unit: str) -> None:
        seen.append((steps, desc))
        if len(seen) == 3:
            studio.stop(SimpleNamespace(session_hash="another"))  # type: ignore[arg-type]
        if len(seen) == 8:
            studio.stop(SimpleNamespace(session_hash=SESSION))  # type: ignore[arg-type]

    options = {"audio_length_in_s": 0.2, "num_inference_steps": 3}
    studio.generate(SESSION, progress, {"text": "a tone"}, options)
    assert seen == [((i, 6), f"Stage {'primary' if i < 4 else 'secondary'}") for i in range(1, 7)]
    with shown_errors():  # a message of the page, and not an error
        studio.generate(SESSION, progress, {"text": "a tone"}, options)
        pytest.fail("The run was not stopped.")
    assert len(seen) == 8
    studio.generate(SESSION, progress, {"text": "a tone"}, options)  # the next run is not stopped


def test_the_files_of_a_closed_tab_are_deleted(studio: Studio) -> None:
    options = {"audio_length_in_s": 0.2, "num_inference_steps": 2}
    (first,) = studio.generate("closed", silent, {"text": "a"}, options)
    (second,) = studio.generate("open", silent, {"text": "a"}, options)
    studio.close(SimpleNamespace(session_hash="closed"))  # type: ignore[arg-type]
    assert not first.file.exists()
    assert second.file.exists()
    with pytest.raises(InvalidValue, match="was closed"):  # a request that waited
        studio.generate("closed", silent, {"text": "a"}, options)


def reads(pipeline: Pipeline, *fields: str) -> None:
    """Let the model say that it reads these fields of prompts."""
    assert pipeline.conditioner is not None
    pipeline.conditioner.fields = ("text", *fields)


def test_fields_of_a_prompt_are_json_or_text_that_the_model_reads(pipeline: Pipeline) -> None:
    reads(pipeline, "bpm", "key", "tempo", "instruments", "mode")
    fields = {"bpm": 90, "key": "C major", "tempo": "", "instruments": ["piano"], "mode": None}
    assert new_prompt(pipeline, "x", fields) == {"text": "x", "bpm": 90, "key": "C major", "instruments": ["piano"]}
    with pytest.raises(InvalidValue, match="Unknown field 'zzz'"):
        new_prompt(pipeline, "", {"zzz": "1"})
    with pytest.raises(InvalidValue, match="it is the prompt"):
        new_prompt(pipeline, "", {"text": "5"})


@pytest.mark.parametrize("value", ["/etc/passwd", {"file": "/etc/passwd"}])
def test_a_prompt_names_no_files(studio: Studio, pipeline: Pipeline, value: Any) -> None:
    reads(pipeline, "audio", "mode")
    for field in ("audio", "mode"):
        if field == "audio" or isinstance(value, dict):
            with pytest.raises(InvalidValue, match=f"Invalid {field}: a prompt of the studio names no files"):
                studio.generate(SESSION, silent, new_prompt(pipeline, "", {field: value}), {"audio_length_in_s": 0.2})


@pytest.fixture
def controlled(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> Studio:
    """A studio whose model follows the loudness of a file, and `song.wav` in the folder of its uploads."""
    pipeline = make_pipeline(conditioner={"name": "joined", "conditioners": ["words", "loudness"]})
    for i, stage in enumerate(pipeline.stages):
        stage.denoiser = lively(pipeline.new_denoiser(i, {**UNET, "controls": ["loudness"]}))
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "files" / "uploads").mkdir(parents=True)
    soundfile.write(tmp_path / "files" / "uploads" / "song.wav", tone(0.6, 300), RATE)
    limits = replace(LIMITS, control_seconds=0.7)
    return Studio({str(tmp_path / "model"): Pipeline.from_pretrained(tmp_path / "model")}, tmp_path / "files", limits)


def test_a_control_is_a_file_of_the_page(controlled: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = controlled.folder / "uploads" / "song.wav"
    with gr.Blocks():
        fields = PromptFields.of(controlled.pipeline, LIMITS)
    assert list(fields.others) == []
    assert list(fields.controls) == ["loudness"]
    values: dict[Any, Any] = {fields.text: "a tone", fields.controls["loudness"]: None}
    options = {"audio_length_in_s": 0.4, "seed": 5, "num_inference_steps": 2}
    (without,) = controlled.generate(SESSION, silent, fields.prompt(values), options)
    values[fields.controls["loudness"]] = str(song)
    (waveform,) = controlled.generate(SESSION, silent, fields.prompt(values), options)
    assert not np.array_equal(waveform.codes, without.codes)
    assert "--control loudness=song.wav" in waveform.command
    monkeypatch.chdir(song.parent)
    assert np.array_equal(samples(waveform), run_again(waveform.command, tmp_path / "again.flac"))
    edited = controlled.edit(SESSION, silent, controlled.encode(song), Vary(strength=0.5), fields.prompt(values), {})
    assert "--control loudness=song.wav" in edited.command
    soundfile.write(song, tone(0.8, 300), RATE)
    with pytest.raises(InvalidValue, match=r"The control loudness has 0\.8 s: the studio allows at most 0\.7"):
        controlled.generate(SESSION, silent, fields.prompt(values), options)
    with pytest.raises(InvalidValue, match="Invalid field 'controls'"):
        new_prompt(controlled.pipeline, "", {"controls": {"loudness": "/etc/passwd"}})


@pytest.mark.parametrize("session", ["..", "../..", "uploads", "/elsewhere", ""])
def test_the_name_of_a_session_is_no_path(studio: Studio, tmp_path: Path, session: str) -> None:
    (upload := studio.folder / "uploads" / "song.wav").parent.mkdir()
    upload.write_bytes(b"")
    before = sorted(tmp_path.iterdir())
    (waveform,) = studio.generate(session, silent, {"text": ""}, {"audio_length_in_s": 0.2, "num_inference_steps": 1})
    assert waveform.file.resolve().is_relative_to(studio.folder / "sessions")
    studio.close(SimpleNamespace(session_hash=session))  # type: ignore[arg-type]
    assert not waveform.file.exists()
    assert upload.exists()
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_has_fields_and_loops_and_any_prompt(studio: Studio, pipeline: Pipeline, tmp_path: Path) -> None:
    options = {"audio_length_in_s": 0.4, "seed": 5, "num_inference_steps": 2, "loop": True}
    (waveform,) = studio.generate(SESSION, silent, {"text": "--help me"}, options)
    assert np.array_equal(samples(waveform), run_again(waveform.command, tmp_path / "again.flac"))
    reads(pipeline, "instruments", "key")
    (waveform,) = studio.generate(SESSION, silent, {"text": "", "instruments": ["piano"], "key": "5"}, options)
    words = shlex.split(waveform.command)
    fields = [words[i + 1].partition("=") for i, word in enumerate(words) if word == "--field"]
    assert new_prompt(pipeline, "", {k: v for k, _, v in fields}) == {"text": "", "instruments": ["piano"], "key": "5"}


def test_messages_are_escaped_and_name_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    messages: list[str] = []
    monkeypatch.setattr(gr, "Warning", messages.append)
    with shown_errors():
        warnings.warn("<b>", stacklevel=1)
        raise InvalidValue(f"'{tmp_path / 'a1f0' / '<img src=x>.wav'}' cannot be read")
    assert messages == ["&#x27;&lt;img src=x&gt;.wav&#x27; cannot be read", "&lt;b&gt;"]


def test_codes_are_drawn_with_the_coarsest_below_and_the_region_in_its_place() -> None:
    codes = np.zeros((4, 10), int)
    codes[0, :5] = 63
    page = codes_figure(codes, [0, 1, 1, 2], 64, 2.0, (0.5, 1.5, 1, 2))
    (image,) = re.findall(r"data:image/png;base64,([^\"]+)", page)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (4, 10)
    bright = pixels.sum(2)
    assert (bright[3, :5] > bright[3, 5:]).all()
    assert (bright[:3] == bright[0, 0]).all()
    assert "left:25.000%;width:50.000%;bottom:25.000%;height:50.000%" in page
    assert re.findall(r"<span>(.*?)</span>", page) == ["2", "1", "1", "0", "0.00", "0.50", "1.00", "1.50", "2.00"]


def test_the_player_has_each_version_and_downloads_the_last(tmp_path: Path) -> None:
    page = player({"A: original": tmp_path / 'a "&<b>.wav', "B: result": tmp_path / "b.flac"}, 2.5)
    sources = re.findall(r'<audio src="gradio_api/file=([^"]*)"', page)
    assert [unquote(source) for source in sources] == [f'{tmp_path}/a "&<b>.wav', f"{tmp_path}/b.flac"]
    assert re.findall(r">([AB]: \w+)</button>", page) == ["A: original", "B: result"]
    assert 'download="b.flac"' in page
    assert 'max="2.500"' in page
    assert "&quot;&amp;&lt;b&gt;.wav" in player({"A: original": tmp_path / 'a "&<b>.wav'}, 2.5)


def test_a_spectrogram_shows_a_tone_at_its_pitch(tmp_path: Path) -> None:
    times = np.arange(22_050) / 22_050
    for file, hertz in ((tmp_path / "low.png", 200), (tmp_path / "high.png", 4000)):
        plot_spectrogram(np.sin(2 * np.pi * hertz * times, dtype=np.float32)[None], 22_050, file)
    rows = [np.asarray(Image.open(tmp_path / f"{n}.png").convert("L")).mean(1).argmax() for n in ("low", "high")]
    assert rows[0] > rows[1] + 40  # low is at the bottom
    plot_spectrogram(np.zeros((1, 10), np.float32), 8000, tmp_path / "short.png")
    assert Image.open(tmp_path / "short.png").height == 128


def test_the_model_card_and_licenses_are_shown(pipeline: Pipeline) -> None:
    assert pipeline.folder
    (pipeline.folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert model_card_of(pipeline).strip() == "# A model"
    assert licenses_of(pipeline) == [["not recorded", ""]]
    pipeline.data = {"license_hours": {"CC0": 1.5, "CC BY": 2}}
    assert licenses_of(pipeline) == [["CC0", "1.5"], ["CC BY", "2"]]


def test_who_may_enter() -> None:
    assert parse_login("") is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InvalidValue, match=rf"^Port {port} is in use\. Try --port {port + 1}\.$"):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    with pytest.raises(InvalidValue, match=r"Cannot listen on no host: .* Name an address of this machine"):
        check_address("no host", 0)
    assert parse_login("me:a:b") == ("me", "a:b")
    for text in ("me", ":x", "me:"):
        with pytest.raises(InvalidValue, match="expected USER:PASSWORD"):
            parse_login(text)
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.1", "box")] == [
        *(True, True, True),
        *(False, False, False),
    ]


# The running studio.


@pytest.fixture
def page(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[gr.Blocks]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    page = new_app(studio)
    yield page
    page.close()


def test_every_menu_offers_what_the_pipeline_takes(page: gr.Blocks, studio: Studio) -> None:
    """In the configuration that the browser gets, menu by menu."""
    menus = [part["props"] for part in page.config["components"] if part["type"] == "dropdown"]
    choices = {
        "Quality": ["the model's own", "paper", "balanced", "fast"],
        **{f"Model {side}": list(studio.models) for side in "AB"},
    }
    assert sorted({menu["label"] for menu in menus}) == ["Model A", "Model B", "Quality"]
    for menu in menus:
        assert [name for name, _ in menu["choices"]] == choices[menu["label"]]
        assert menu["value"] in [value for _, value in menu["choices"]]
        for _, value in menu["choices"] if menu["label"] == "Quality" else ():
            GenerationConfig(quality=value or None)


def test_a_file_that_is_refused_is_removed_and_the_middle_of_another_selected(
    page: gr.Blocks, studio: Studio, tmp_path: Path
) -> None:
    with page:
        tab = EditTab(studio)
    for name, seconds in (("long.wav", 3), ("short.wav", 0.9)):
        soundfile.write(tmp_path / name, tone(seconds, 300), RATE)
    versions, *_, source = tab.load(str(tmp_path / "long.wav"))
    assert (versions, source) == ([], None)
    versions, *_, start, stop, low, high, source = tab.load(str(tmp_path / "short.wav"))
    assert (start, stop, low, high) == (0.3, 0.6, tab.levels[0], tab.levels[-1])
    assert len(versions) == 1
    assert source == gr.skip()


@pytest.fixture
def url(page: gr.Blocks, studio: Studio) -> str:
    return launch(page, "127.0.0.1", None, ("me", "secret"), studio.folder)


@pytest.mark.integration
def test_nothing_of_a_closed_session_remains(page: gr.Blocks, url: str, studio: Studio, tmp_path: Path) -> None:
    client = Client(url, auth=("me", "secret"), verbose=False, download_files=tmp_path)
    client.predict(prompt="a", audio_length_in_s=0.2, seed=1, num_inference_steps=2, api_name="/generate")
    assert client.session_hash in page.state_holder.session_data
    assert len(list(studio.folder.glob("sessions/*/*/*.flac"))) == 1
    client.close()
    deadline = time.monotonic() + 60
    while page.state_holder.session_data or list(studio.folder.glob("sessions/*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.integration
def test_the_api_has_the_arguments_of_the_pipeline_and_returns_notes_and_errors_as_text(
    url: str, studio: Studio, tmp_path: Path
) -> None:
    client = Client(url, auth=("me", "secret"), verbose=False, download_files=tmp_path)
    described: Any = client.view_api(return_format="dict", print_info=False)
    parameters = described["named_endpoints"]["/generate"]["parameters"]
    names = [each["parameter_name"] for each in parameters]
    assert names[0] == "prompt"
    assert set(names) <= {"prompt", "generation_config", *GenerationConfig.model_fields}
    assert all(each["parameter_has_default"] and each["parameter_default"] is None for each in parameters[1:])
    studio.pipeline.data = {"words": "a tone"}
    studio.pipeline.generation_config = GenerationConfig(audio_length_in_s=0.3, num_inference_steps=2)
    config = {"loudness": "off", "negative_prompt": "b"}
    files, command, notes = client.predict(
        prompt={"text": "<b>", "bpm": None}, generation_config=config, guidance_scale=2, api_name="/generate"
    )
    assert soundfile.info(files[0]).duration == pytest.approx(0.3)  # the model's own
    assert all(words in command for words in ("'<b>'", "--loudness off", "--negative-prompt b", "--guidance-scale 2"))
    assert notes == ["The model was not trained on 'b'. Words it knows, 2 in all: tone"]
    for options, message in (
        ({"prompt": {"text": "", "<x>": 1}}, "Unknown field '<x>' of this model's prompts"),
        ({"prompt": 3}, "The field 'text' of a prompt must be a string"),
        ({"generation_config": [1]}, "Invalid generation_config=[1]: expected a mapping"),
        ({"generation_config": {"guidance": 1}}, "Unexpected option 'guidance'. Did you mean 'guidance_scale'?"),
        ({"num_waveforms_per_prompt": 1.5}, "Invalid num_waveforms_per_prompt=1.5"),
    ):
        with pytest.raises(Exception, match=re.escape(message)):
            client.predict(**{"prompt": "", **options}, api_name="/generate")
    client.close()


@pytest.mark.integration
def test_nothing_is_fetched_from_other_machines(url: str, studio: Studio, tmp_path: Path) -> None:
    client = Client(url, auth=("me", "secret"), verbose=False, download_files=tmp_path)
    client.predict(prompt="a", audio_length_in_s=0.2, seed=1, num_inference_steps=2, api_name="/generate")
    (file,) = studio.folder.glob("sessions/*/*/*.flac")
    signed_in = {"Cookie": "; ".join(f"{key}={value}" for key, value in client.cookies.items())}
    local = httpx.Client(base_url=url, timeout=60)
    get = local.get(f"gradio_api/file={quote(str(file))}", headers=signed_in)
    assert get.content == file.read_bytes()
    assert local.get(f"gradio_api/file={quote(str(file))}").status_code == httpx.codes.UNAUTHORIZED
    for elsewhere in ("http://example.com/a.wav", "https://huggingface.co/a.wav"):
        get = local.get(f"gradio_api/file={elsewhere}", headers=signed_in)
        assert get.status_code == httpx.codes.FORBIDDEN
        with pytest.raises(InvalidValue, match="fetches nothing from other machines"):
            processing_utils.save_url_to_cache(elsewhere, str(tmp_path))
    for outside in ("/etc/hostname", str(tmp_path / "model" / "codecdiff.json")):
        get = local.get(f"gradio_api/file={outside}", headers=signed_in)
        assert get.status_code == httpx.codes.FORBIDDEN


@pytest.mark.integration
def test_the_api_generates_and_the_queue_drains(url: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)credentials|auth|login"):
        Client(url, verbose=False).predict(api_name="/generate")
    client = Client(url, auth=("me", "secret"), verbose=False, download_files=tmp_path)
    assert list(json.loads(json.dumps(client.view_api(return_format="dict")))["named_endpoints"]) == ["/generate"]
    options: dict[str, Any] = {"prompt": "a tone", "audio_length_in_s": 0.2, "seed": 1, "num_inference_steps": 2}
    files, command, notes = client.predict(**options, num_waveforms_per_prompt=2, api_name="/generate")
    assert notes == []
    assert len(files) == 2
    assert "--seed 1" in command
    assert GenerationRequest.from_file(files[0]).prompt == {"text": "a tone"}
    with pytest.raises(Exception, match="longer than the 1 s"):
        client.predict(prompt="", audio_length_in_s=50, api_name="/generate")
    results: list[Any] = []

    def ask() -> None:
        try:
            results.append(client.predict(**options, api_name="/generate"))
        except Exception as error:  # the queue holds eight
            results.append(error)

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    refused = [each for each in results if isinstance(each, Exception)]
    assert len(results) == 24
    assert 0 < len(refused) < 24
    assert all("full" in str(each).lower() for each in refused), refused
    files, _, _ = client.predict(**options, api_name="/generate")  # it goes on
    body = {"data": ["a tone", 0.2, 2, None, 1, 1, None]}
    signed_in = {"Cookie": "; ".join(f"{key}={value}" for key, value in client.cookies.items())}
    direct = httpx.post(f"{url}gradio_api/run/generate", json=body, headers=signed_in)
    assert "does not accept direct HTTP POST requests" in direct.text  # nobody passes the queue
    assert np.array_equal(
        soundfile.read(files[0])[0], soundfile.read(next(r for r in results if r not in refused)[0][0])[0]
    )


@pytest.mark.parametrize("middleware", [[], [Middleware(EndedSessions)]])
def test_the_stream_of_a_closed_session_ends_without_an_error(middleware: list[Middleware]) -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"session not found"
        raise HTTPException(404)  # as Gradio does

    async def stream(request: Any) -> StreamingResponse:
        return StreamingResponse(events())

    async def get() -> bytes:
        app = Starlette(routes=[Route("/", stream)], middleware=middleware)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://studio") as client:
            return (await client.get("/")).content

    if middleware:
        assert asyncio.run(get()) == b"session not found"
    else:
        with pytest.raises(RuntimeError, match="response already started"):
            asyncio.run(get())
