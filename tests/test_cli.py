import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
from packaging.requirements import Requirement
from typer.testing import CliRunner

from codecdiff import Codec, registry
from codecdiff.cli import console
from codecdiff.cli.console import numbered, parse_time, select_device
from codecdiff.cli.doctor import Finding, check_companion, check_requirement, diagnose
from codecdiff.cli.encode import tracks_of
from codecdiff.cli.generate import prompt_values
from codecdiff.cli.main import app
from codecdiff.config import to_config
from codecdiff.data.code_store import CodeStore
from codecdiff.pipeline.pipeline import Pipeline

RATE = 8000  # Hz, of the tiny DAC


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch):
    """Keep the rows of tables in one line each."""
    monkeypatch.setattr(console.out, "width", 400)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """Give what a command that fails in a foreseen way says."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.output


def tone(file: Path, seconds: float = 0.5) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.1 * np.sin(np.arange(round(seconds * RATE)) / 5), RATE)
    return file


@pytest.fixture
def model(make_pipeline: Callable[..., Pipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a model of the smallest parts, not trained."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_pipeline().save_pretrained(folder)
    return folder


# What must be quick: subprocesses, because this one has torch already. benchmarks/startup.py tells the seconds.

ONE_COMMAND = """
import typer
from rich.console import Console
from rich.table import Table
app = typer.Typer()
@app.command()
def one(name: str = "") -> None:
    Console().print(Table(name))
app()
"""


def imported(code: str, *arguments: str) -> set[str]:
    """Run some Python in a process of its own and give the packages outside the standard library that it imported."""
    tell = "import atexit, sys\natexit.register(lambda: print('imported', *sys.modules, file=sys.stderr))\n"
    run = subprocess.run([sys.executable, "-c", tell + code, *arguments], check=True, capture_output=True, text=True)
    modules = run.stderr.rpartition("imported ")[2].split()
    return {module.partition(".")[0] for module in modules} - sys.stdlib_module_names


@pytest.mark.parametrize("argument", ["--help", "plugins", "--version"])
def test_answers_with_no_more_packages_than_a_program_of_one_command(argument: str):
    ours = imported("from codecdiff.cli.main import main; main()", argument)
    assert ours - imported(ONE_COMMAND) == {"codecdiff", "entrypoints"}


# plugins

HELLO = """
import typer

from codecdiff.errors import InvalidValue, UnknownName

tools = typer.Typer(help="Tools for guests.", no_args_is_help=True)

@tools.command()
def wave(twice: bool = False):
    \"\"\"Wave a hand.\"\"\"
    typer.echo("wave " * (1 + twice))

@tools.command()
def bow():
    raise UnknownName("There is nobody to bow to.")

def hello(name: str, loud: bool = False):
    \"\"\"Greet somebody.\"\"\"
    if name == "nobody":
        raise InvalidValue("There is nobody.")
    typer.echo(f"hello {name}{'!' * loud}")
"""


def test_plugins_lists_every_part():
    output = run("plugins").output
    for plugin in registry.scan().plugins:
        assert any(plugin.name in line and plugin.distribution in line for line in output.splitlines())


def test_plugins_can_be_listed_by_name_kind_or_package():
    assert [row["name"] for row in json.loads(run("plugins", "coarse-first", "--json").output)] == ["coarse-first"]
    assert {row["kind"] for row in json.loads(run("plugins", "splitter", "--json").output)} == {"splitters"}
    assert "Did you mean 'coarse-first'?" in refused("plugins", "Coarse-frist")


def test_a_command_that_is_misspelled_names_the_nearest():
    assert "No such command 'trian'. Did you mean 'train'?" in run("trian").output
    for name in ("edit", "remix", "continue", "variation"):
        assert f"'{name}'. To edit: refine, inpaint, extend, vary, restore." in run(name).output


def test_the_help_lists_the_commands_of_the_core_in_groups_and_others_below():
    core, others = run("--help").output.partition("Generate and edit:")[2].split("From other packages:")
    available = registry.entries(registry.COMMANDS)
    for name, plugin in available.items():
        assert (f"\n  {name} " in core, f"\n  {name} " in others) == (
            (True, False) if plugin.distribution == registry.CORE else (False, not plugin.problem)
        )


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A third-party plugin that raises when imported, and one whose entry points cannot be read."""
    (tmp_path / "shaky.py").write_text("raise RuntimeError('no [oil] left')\n")
    (tmp_path / "greeter.py").write_text(HELLO)
    for name, text in {
        "shaky": "[codecdiff.codecs]\nshaky = shaky:Codec\n",
        "greeter": "[codecdiff.commands]\nhello = greeter:hello\n",
        "mangled": "codecdiff [[[",
    }.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "entry_points.txt").write_text(text)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(registry.SWITCH, "shaky,greeter,mangled")  # those of the core are enough to be quick
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()


@pytest.mark.integration
@pytest.mark.usefixtures("broken")
def test_check_shows_the_error_of_a_broken_plugin_beside_those_that_load():
    result = run("plugins", "--check")
    assert result.exit_code == 1
    rows = result.output.splitlines()
    assert any("shaky" in row and "no [oil] left" in row for row in rows[:2])
    assert any("shaky" in row and "see above" in row for row in rows[2:])
    assert any("mangled" in row and "unreadable" in row for row in rows)
    assert any("coarse-first" in row and "loads" in row for row in rows)
    assert any("greeter" in row and "loads" in row for row in rows)


@pytest.mark.integration
@pytest.mark.usefixtures("broken")
def test_doctor_reports_a_broken_plugin_and_how_to_fix_it():
    result = run("doctor")
    assert result.exit_code == 1
    assert "codec shaky: Correct shaky.py:1, or remove it with `pip uninstall shaky`" in result.output
    assert "pip uninstall mangled" in result.output


@pytest.mark.usefixtures("broken")
def test_a_broken_plugin_asked_for_by_name_is_refused(tmp_path: Path):
    tone(tmp_path / "music" / "a.wav")
    assert "no [oil] left" in refused("encode", tmp_path / "music", "-o", tmp_path / "store", "--codec", "shaky")


# Commands of plugins.


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Third-party commands: one that works, one that has a built-in's name, one that raises when imported."""
    for name, code, lines in (
        ("greeter", HELLO, "hello = greeter:hello\nplugins = greeter:hello\ntools = greeter:tools\n"),
        ("shaky", "raise RuntimeError('no [oil] left')\n", "oil = shaky:command\n"),
        ("hollow", "command = 3\n", "hollow = hollow:command\n"),
    ):
        (tmp_path / f"{name}.py").write_text(code)
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "entry_points.txt").write_text(f"[codecdiff.commands]\n{lines}")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()
    for name in ("greeter", "shaky", "hollow"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("brought")
def test_a_command_of_a_plugin_is_listed_without_importing_it():
    shown = run("--help").output
    assert "Greet somebody" in next(line for line in shown.splitlines() if line.split()[:1] == ["hello"])
    assert any("oil" in line and "From shaky" in line for line in shown.splitlines())
    assert any("commands" in line and "greeter" in line for line in run("plugins").output.splitlines())
    assert not {"greeter", "shaky", "hollow"} & sys.modules.keys()


@pytest.mark.usefixtures("brought")
def test_a_command_of_a_plugin_has_its_own_help_options_and_errors():
    shown = run("hello", "-h").output
    assert "Greet somebody." in shown
    assert "--loud" in shown
    assert run("hello", "you", "--loud").output == "hello you!\n"
    assert "There is nobody." in refused("hello", "nobody")
    assert run("hello").exit_code == 2


@pytest.mark.usefixtures("brought")
def test_a_typer_app_of_a_plugin_has_subcommands_with_their_own_help():
    shown = run("tools", "--help").output
    assert "Tools for guests." in shown
    assert "Wave a hand" in shown
    assert "--install-completion" not in shown
    assert "--twice" in run("tools", "wave", "--help").output
    assert run("tools", "wave", "--twice").output == "wave wave \n"
    assert "nobody to bow to" in refused("tools", "bow")


def test_a_command_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(registry.install_hints(), "commands", {"serve": "codecdiff-serve"})
    assert "No command named 'serve'" in refused("serve")
    assert "pip install ./plugins/codecdiff-serve in a checkout of codecdiff" in refused("serve")
    assert run("sreve").exit_code == 2


def test_the_package_can_be_run():
    shown = subprocess.run([sys.executable, "-m", "codecdiff", "--help"], check=True, capture_output=True, text=True)
    assert "Usage: codecdiff [OPTIONS] COMMAND" in shown.stdout


@pytest.mark.usefixtures("brought")
def test_a_broken_command_is_reported_in_a_sentence_and_breaks_no_other():
    assert "command 'oil' of shaky 1.0 cannot be loaded: RuntimeError: no [oil] left" in refused("oil")
    assert "names 3, which is not a function" in refused("hollow")
    assert run("hello", "you").exit_code == 0


@pytest.mark.usefixtures("brought")
def test_a_command_of_a_plugin_does_not_replace_one_of_the_core():
    assert "coarse-first" in run("plugins").output
    assert run("greeter:plugins", "you").output == "hello you\n"


# encode


def test_encode_skips_bad_files_by_name_and_counts_them(dac: Codec, dac_folder: Path, tmp_path: Path):
    tone(tmp_path / "music" / "good.wav")
    (tmp_path / "music" / "good.txt").write_text("a steady tone")
    (tmp_path / "music" / "words.mp3").write_text("this is not music")
    single, store = tone(tmp_path / "more" / "single.flac"), tmp_path / "store"
    result = run("encode", tmp_path / "music", single, "-o", store, "--codec", "dac", "--set", f"model={dac_folder}")
    assert result.exit_code == 0, result.output
    assert "Skipped" in result.output
    assert "words.mp3" in result.output
    assert "2 of 3 files" in result.output
    made = CodeStore(store)
    captions = {row["track"]: row["captions"] for row in made.rows}
    assert captions == {"music/good.wav": ["a steady tone"], "more/single.flac": []}
    made.check_codec(dac, to_config("codecs", dac))
    with pytest.raises(ValueError, match="holds no latents before quantization"):
        made.check_codec(dac, to_config("codecs", dac), "continuous")


def test_encode_stores_latents_before_quantization_on_request(dac: Codec, dac_folder: Path, tmp_path: Path):
    audio, store = tone(tmp_path / "a.wav"), tmp_path / "store"
    result = run("encode", audio, "-o", store, "--codec", "dac", "--set", f"model={dac_folder}", "--continuous")
    assert result.exit_code == 0, result.output
    made = CodeStore(store)
    made.check_codec(dac, to_config("codecs", dac), "continuous")
    assert made.continuous(0).shape == (*made.codes(0).shape, dac.codebook_dim)


def test_tracks_of_one_folder_are_named_as_by_the_recipe(tmp_path: Path):
    tone(tmp_path / "music" / "deep" / "a.wav")
    assert [track.name for track in tracks_of([tmp_path / "music"])] == ["deep/a.wav"]
    assert [track.name for track in tracks_of([tmp_path / "music", tmp_path / "music" / "deep" / "a.wav"])] == [
        "deep/a.wav"
    ]


def test_one_file_is_encoded_whatever_lies_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    blob = tone(tmp_path / "blobs" / "0123.wav")
    (tmp_path / "music").mkdir()
    link = tmp_path / "music" / "song.wav"
    link.symlink_to(blob)
    (tmp_path / "music" / "broken.wav").write_text("no music")
    (tmp_path / "music" / "metadata.csv").write_text("file_name,text\nsong.wav,slow, calm\nsong.wav,slow\n")
    hidden = tone(tmp_path / "music" / ".hidden.wav")
    (track,) = tracks_of([link])
    assert (track.name, track.file, track.captions) == ("song.wav", link, ("slow",))
    assert "metadata.csv, line 2: It has 3 fields" in capsys.readouterr().err.replace("\n", " ")
    assert [track.name for track in tracks_of([hidden])] == [".hidden.wav"]
    assert [track.name for track in tracks_of([link, hidden, tmp_path / "blobs"])] == [
        "music/.hidden.wav",
        "music/song.wav",
        "blobs/0123.wav",
    ]


def test_encode_fits_a_codec_that_needs_it(tmp_path: Path):
    generator = np.random.default_rng(0)
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music" / "noise.wav", 0.1 * generator.standard_normal(44100 * 15), 44100)
    result = run("encode", tmp_path / "music", "-o", tmp_path / "store", "--codec", "starter")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "store" / "codec.safetensors").is_file()


def test_encode_refuses(dac_folder: Path, tmp_path: Path):
    music, store = tone(tmp_path / "music" / "a.wav").parent, tmp_path / "store"
    with_dac = ("--codec", "dac", "--set", f"model={dac_folder}")
    assert "does not exist" in refused("encode", tmp_path / "none", "-o", store)
    assert "'/proc' cannot be written to" in refused("encode", music, "-o", "/proc/deep/store")
    assert "not audio that can be read, by its name" in refused("encode", __file__, "-o", store)
    (tmp_path / "a.m4a").touch()
    assert "Convert it with ffmpeg -i 'a.m4a' 'a.flac'" in refused("encode", tmp_path / "a.m4a", "-o", store)
    assert "Did you mean 'dac'" in refused("encode", music, "-o", store, "--codec", "dacc")
    assert "has no option 'modle'" in refused("encode", music, "-o", store, "--codec", "dac", "--set", "modle=x")
    (tmp_path / "empty").mkdir()
    assert "holds no audio" in refused("encode", tmp_path / "empty", "-o", store)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"RIFF")
    assert "None of the audio files" in refused("encode", tmp_path / "bad", "-o", store, *with_dac)
    assert not store.exists()
    store.mkdir()
    assert "exists already" in refused("encode", music, "-o", store, *with_dac)


# generate


def test_generate_writes_the_same_music_for_the_same_seed(model: Path, tmp_path: Path):
    words = ("generate", "a slow tune", "--model", model, "--seconds", 0.5, "--seed", 3, "--num-waveforms", 2)
    for name in ("first.wav", "again.wav"):
        result = run(*words, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "again-1.wav",
        "again-2.wav",
        "first-1.wav",
        "first-2.wav",
    ]
    first, rate = soundfile.read(tmp_path / "first-1.wav")
    assert (len(first), rate) == (RATE // 2, RATE)
    assert np.array_equal(first, soundfile.read(tmp_path / "again-1.wav")[0])
    assert not np.array_equal(first, soundfile.read(tmp_path / "first-2.wav")[0])


def test_a_field_is_part_of_the_prompt_and_one_that_is_not_read_is_refused(model: Path, tmp_path: Path):
    words = ("generate", "--model", model, "--seconds", 0.2, "--seed", 0)
    assert run(*words, "drums", "-o", tmp_path / "text.wav").exit_code == 0
    assert run(*words, "", "--field", "text=drums", "-o", tmp_path / "field.wav").exit_code == 0
    assert (tmp_path / "text.wav").read_bytes() == (tmp_path / "field.wav").read_bytes()
    said = refused(*words, "drums", "--field", "tempo=120", "-o", tmp_path / "out.wav")
    assert "Unknown field 'tempo' of this model's prompts. Available: text." in said
    assert "expected NAME=VALUE, each name once, as in bpm=120" in refused(
        *words, "drums", "--field", "text", "-o", tmp_path / "out.wav"
    )


def test_the_value_of_a_field_is_json_or_else_text():
    class Reading:
        fields = ("tempo", "key")

    values = prompt_values(["tempo=120", "key=A minor"], cast(Any, Reading()))
    assert values == {"tempo": 120, "key": "A minor"}


def test_an_empty_prompt_is_noted(model: Path, tmp_path: Path):
    result = run("generate", " ", "--model", model, "--seconds", 0.2, "--steps", 1, "-o", tmp_path / "out.wav")
    assert result.exit_code == 0, result.output
    assert "Without a prompt" in result.output
    assert (tmp_path / "out.wav").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seconds", "0"], "Invalid --seconds 0"),
        (["--seconds", "0.001"], "Invalid --seconds 0.001: expected at least 0.1"),
        (["--seconds", "1e9"], "expected at most 3,600"),
        (["--seconds", "nan"], "Invalid --seconds nan"),
        (["--num-inference-steps", "0"], "Invalid --steps 0: expected 1 to 100"),
        (["--loudness", "0"], "Invalid --loudness '0': expected at most -5 or 'off'. Use a level in LUFS"),
        (["--steps", "100000"], "Invalid --steps 100000: expected 1 to 100"),
        (["--device", "abacus"], "Device 'abacus' cannot be used"),
    ],
)
def test_generate_refuses_absurd_numbers_and_leaves_no_file(model: Path, tmp_path: Path, options: list[str], said: str):
    assert said in refused("generate", "x", "--model", model, "-o", tmp_path / "out.wav", *options)
    assert not list(tmp_path.iterdir())


def test_generate_refuses_an_output_it_cannot_write_before_it_loads_a_model(tmp_path: Path):
    def says(output: Path) -> str:
        return refused("generate", "x", "--model", "no model", "-o", output)

    assert "unknown audio format" in says(tmp_path / "out.xyz")
    assert "unknown audio format" in says(tmp_path / "out")
    assert "{i} is not known. The number of a waveform is {n}." in says(tmp_path / "out-{i}.wav")
    assert "mkdir -p" in says(tmp_path / "none" / "out.wav")
    (tmp_path / "folder.wav").mkdir()
    assert "is a folder" in says(tmp_path / "folder.wav")
    assert "No model 'no model'" in says(tmp_path / "out.wav")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_generate_refuses_a_read_only_folder():
    assert "cannot be written to" in refused("generate", "x", "-o", "/proc/out.wav")


def test_generate_refuses_a_model_that_is_not_there(tmp_path: Path):
    assert "Installed models" in refused("generate", "x", "--model", "nobody", "-o", tmp_path / "out.wav")
    assert "does not hold a model" in refused("generate", "x", "--model", tmp_path, "-o", tmp_path / "out.wav")


def test_debug_shows_where(tmp_path: Path):
    result = run("--debug", "generate", "x", "-o", tmp_path / "out.xyz")
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1:30", 90), ("0:00.5", 0.5), ("1:02:30.25", 3750.25), ("75:00", 4500)]
)
def test_a_time_is_in_seconds_or_minutes_and_seconds(text: str, seconds: float):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["1:75", "1:5", "1:99:00", ":30", "1:", "-1:30", "2min", "", "1:2:30"])
def test_what_is_not_a_time_is_refused(text: str, tmp_path: Path):
    result = run("generate", "a", "--seconds", text, "-o", tmp_path / "a.wav")
    assert result.exit_code == 2
    shown = " ".join(result.output.split())
    assert f"Invalid value for '--seconds': '{text}' is not a time: write seconds, as in 90, or m:ss, as in" in shown


def test_times_of_commands_are_in_minutes_and_seconds(model: Path, tmp_path: Path):
    source, out = tone(tmp_path / "in.wav"), tmp_path / "out.wav"
    assert run("generate", "a", "--model", model, "--seconds", "0:00.25", "-o", out).exit_code == 0
    assert soundfile.info(out).frames == RATE // 4
    regions = ("--from", "0:00.1", "--to", "0:00.2", "--from", "0.3", "--to", "0:00.4")
    assert run("inpaint", source, "--model", model, *regions, "-o", out, "--force").exit_code == 0
    assert '"edit":{"name":"inpaint","regions":[[0.1,0.2],[0.3,0.4]]' in soundfile.SoundFile(out).comment
    assert run("extend", source, "--model", model, "--seconds", "0:00.1", "-o", out, "--force").exit_code == 0
    assert '"seconds":0.1' in soundfile.SoundFile(out).comment
    with pytest.warns(UserWarning, match="the region 0.2 to 60 s is cut there"):
        run("inpaint", source, "--model", model, "--from", 0.2, "--to", "1:00")


def test_one_take_keeps_its_name():
    assert numbered(Path("a/out.wav"), 1) == [Path("a/out.wav")]
    assert numbered(Path("a/out.wav"), 2) == [Path("a/out-1.wav"), Path("a/out-2.wav")]
    assert numbered(Path("a/{n}-out.wav"), 2) == [Path("a/1-out.wav"), Path("a/2-out.wav")]
    assert numbered(Path("{n}.wav"), 1) == [Path("1.wav")]
    assert numbered(Path("{i} %d.wav"), 2) == [Path("{i} %d-1.wav"), Path("{i} %d-2.wav")]


def test_the_cpu_can_always_be_chosen():
    assert select_device("cpu") == torch.device("cpu")


# doctor


@pytest.mark.integration
def test_doctor_finds_nothing_wrong_here():
    assert [finding for finding in diagnose() if not finding.fine] == []


def test_a_package_that_is_missing_or_too_old_comes_with_the_line_that_fixes_it():
    assert check_requirement("x", Requirement("numpy>=1")).fine
    assert check_requirement("x", Requirement("numpy>=99")).hint == "pip install 'numpy>=99'"
    assert check_requirement("x", Requirement("nosuchthing")).hint == "pip install 'nosuchthing'"
    assert "pyproject.toml of x" in check_requirement("x", Requirement("codecdiff>=99")).hint


def test_a_companion_for_another_torch_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "torchaudio-2.0.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.0.0\nRequires-Dist: torch==2.0.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = check_companion("torchaudio")
    assert finding.state == "2.0.0 is for torch==2.0.0"
    assert finding.hint.startswith("pip uninstall torchaudio")


def test_a_finding_without_a_hint_is_fine():
    assert Finding("python", "3.11").fine
    assert not Finding("torch", "missing", "pip install torch").fine
