"""What all commands have in common: help that fits, names of files, JSON for programs, completion, recipes."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from codecdiff.recipes import LogConsole  # pyright: ignore[reportMissingImports]  # as installed
from test_cli import refused, run

from codecdiff import Pipeline, load, registry
from codecdiff.cli import console
from codecdiff.cli.console import folded_table, progress
from codecdiff.cli.generate import file_stem
from codecdiff.cli.main import load_command
from codecdiff.cli.train import adapted, config_file
from codecdiff.data.code_store import CodeStore
from codecdiff.errors import UnknownName, UserError
from codecdiff.pipeline.vocabulary import training_words, vocabulary_note
from codecdiff.testing.runner import start_checks
from codecdiff.training.accelerator import format_duration

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def model(make_pipeline: Callable[..., Pipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is of the smallest parts, not trained."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    make_pipeline().save_pretrained(folder / "model")
    return folder


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch):
    """Keep the rows of tables in one line each."""
    monkeypatch.setattr(console.out, "width", 400)


# Help.


def commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, and of those in groups."""
    yield ()
    for name, plugin in registry.entries(registry.COMMANDS).items():
        yield (name,)
        yield from ((name, inner) for inner in getattr(load_command(name, plugin), "commands", {}))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_fits_80_columns_and_names_values_in_one_way(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    shown = run(*words, "--help").output
    assert max(map(len, shown.splitlines())) <= 80
    assert "..." not in re.sub(r"\b[A-Z]+\.\.\.|\]\.\.\.", "", shown), "A text is cut."
    values = re.findall(r"^  (?:-\w, )?--[\w-]+(?:, --[\w-]+)*(?: ([^ \n-][^ \n]*))?(?:  |$)", shown, flags=re.M)
    assert all(re.fullmatch(r"[A-Z][A-Z_|=/.-]*", value) for value in values if value), values


def test_the_list_of_commands_describes_those_of_other_distributions_without_importing_them(tmp_path: Path):
    (tmp_path / "imported.py").write_text('raise SystemExit\n\n\ndef sing():\n    """Sing a song.\n\n    Badly."""\n')
    (tmp_path / "apps.py").write_text('"""Make music.\n\nAny."""\n\nimport typer\n\napp = typer.Typer()\n')
    (tmp_path / "silent.py").write_text("def sing():\n    pass\n")
    code = """
import sys
from types import SimpleNamespace
from codecdiff.cli.main import sentence_of

sys.path.insert(0, sys.argv[1])
for module, name in [("imported", "sing"), ("apps", "app"), ("silent", "sing"), ("absent.inner", "sing")]:
    entry = SimpleNamespace(module_name=module, object_name=name)
    print(sentence_of(SimpleNamespace(entry=entry, distribution="songs")))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Sing a song", "Make music", "From songs", "From songs"]


def test_the_list_of_commands_has_a_sentence_for_each_of_ours():
    shown = run("--help").output
    assert "From codecdiff" not in shown
    assert "Measure generated music against reference music" in shown


@pytest.mark.parametrize("width", [40, 80])
def test_tables_break_what_is_wide_into_lines_and_cut_nothing(width: int):
    words = [f"{letter}" * 61 for letter in "abcdef"]
    table = folded_table("field", "what is measured", "z")
    for word in words:
        table.add_row("name", word, "end")
    screen = console.Screen(markup=False, width=width, record=True, file=io.StringIO())
    screen.print(table)
    shown = screen.export_text()
    assert "…" not in shown
    assert all(shown.count(word[0]) >= 61 for word in words)
    assert max(map(len, shown.splitlines())) <= width


def test_completion_knows_commands_and_their_options():
    def completed(shell: str, text: str) -> str:
        words = text.split(" ")
        environment = {**os.environ, "_CODECDIFF_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": text}
        environment |= {
            "COMP_WORDS": text,
            "COMP_CWORD": str(len(words) - 1),
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        code = "import sys; sys.argv[0] = 'codecdiff'; from codecdiff.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        return done.stdout

    for shell in ("bash", "zsh", "fish"):
        assert "generate" in completed(shell, "codecdiff gen"), shell
        assert "--guidance-scale" in completed(shell, "codecdiff generate --gui"), shell


# Files.


def test_a_file_without_a_name_is_named_after_the_prompt_and_the_seed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = ("generate", "A slow, sad tune!", "--model", model, "--seconds", 0.1, "--seed", 3)
    for _ in range(2):
        assert run(*words).exit_code == 0
    assert run(*words, "--num-waveforms", 2).exit_code == 0
    assert run("vary", "a-slow-sad-tune-3.wav", "--model", model).exit_code == 0
    made = sorted(file.name for file in tmp_path.iterdir())
    assert {"a-slow-sad-tune-3.wav", "a-slow-sad-tune-3-2.wav", "a-slow-sad-tune-3-vary.wav"} <= set(made)
    assert len(made) == 5  # no run has overwritten what another wrote


@pytest.mark.parametrize(
    ("prompt", "stem"),
    [("", "untitled"), ("  ?! ", "untitled"), ("Für Elise", "für-elise"), ("../../etc/passwd", "etc-passwd")],
)
def test_the_stem_of_a_file(prompt: str, stem: str):
    assert file_stem(prompt) == stem


def test_a_long_prompt_is_cut_between_words():
    stem = file_stem("one two three four five six seven eight nine ten eleven")
    assert len(stem) <= 40
    assert stem == "one-two-three-four-five-six-seven-eight"


def test_no_file_is_overwritten_without_force(model: Path, tmp_path: Path):
    out = tmp_path / "out.wav"
    words = ("generate", "drums", "--model", model, "--seconds", 0.1, "-o", out)
    assert run(*words).exit_code == 0
    before = out.read_bytes()
    assert "exists already. Choose another name with -o, or overwrite it with --force" in refused(*words, "--seed", 1)
    assert out.read_bytes() == before
    assert run(*words, "--seed", 1, "--force").exit_code == 0
    assert out.read_bytes() != before


# What programs read.


def test_without_a_seed_a_new_one_is_drawn_and_printed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ("generate", "drums", "--model", model, "--seconds", 0.1)
    outputs = [run(*words).output for _ in range(2)]
    seeds = [int(seed) for output in outputs for seed in re.findall(r"Seed: (\d+)", output)]
    assert seeds[0] != seeds[1]
    first = Path(f"drums-{seeds[0]}.wav")
    assert run(*words, "--seed", seeds[0], "-o", "again.wav").exit_code == 0
    assert first.read_bytes() == Path("again.wav").read_bytes()


def test_a_word_that_training_did_not_have_gets_a_note(
    make_pipeline: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    make_pipeline(data=training_words(["drums in F# minor", "slow drums with the drums"])).save_pretrained("known")
    output = run("generate", "Grimy drums in f♯, 120 bpm", "--model", "known", "--seconds", 0.1).output
    assert "not trained on 'Grimy', 'bpm'. Words it knows, 7 in all: drums, f#, minor, slow\n" in output
    spec = {"name": "joined", "conditioners": ["words", "tempo-and-key"]}
    parsing = make_pipeline(conditioner=spec, data=training_words(["slow drums in C minor"]))
    assert "'grimy'." in vocabulary_note(parsing.conditioner, parsing.data, ["grimy drums in G minor, 120 bpm"])
    assert "not trained" not in run("generate", "slow drums", "--model", "known", "--seconds", 0.1).output
    make_pipeline().save_pretrained("unknown")
    assert "not trained" not in run("generate", "Grimy drums", "--model", "unknown", "--seconds", 0.1).output
    with pytest.warns(UserWarning, match="not trained on 'grimy'"):
        Pipeline.from_pretrained("known")("drums", negative_prompt="grimy", audio_length_in_s=0.1)


def test_a_vocabulary_that_is_too_large_is_not_recorded():
    letters = "abcdefghijklmnopqrstuvwxyz"
    assert training_words(a + b + c for a in letters for b in letters for c in letters) == {}
    assert training_words(["", "90"]) == {}


def test_inspect_shows_the_model_steps_and_guidance_and_nothing_that_is_empty(model: Path, tmp_path: Path):
    out = tmp_path / "out.wav"
    run("generate", "drums", "--model", model, "--seconds", 0.1, "-o", out, "--guidance", 2, "--steps", 3)
    shown = run("inspect", out).output
    assert "mine/model" not in shown
    assert f"{model.parent.name}/mine" in shown
    assert re.search(r"primary +│ 3 steps of \S+, guidance scale 2", shown)
    assert "negative" not in shown
    said = json.loads(run("inspect", out, "--json").output)
    assert said["prompt"] == {"text": "drums"}
    assert {stage["num_inference_steps"] for stage in said["stages"].values()} == {3}


def test_inspect_shows_what_a_model_is(model: Path):
    shown = run("inspect", model)
    pipe = load(model)
    assert shown.stdout == f"{model} ({pipe.fingerprint})\n{pipe!r}\n"
    described = json.loads(run("inspect", model, "--json").stdout)
    assert "3 steps, guidance scale 2.0" in described["primary"]
    assert (described["model"], described["fingerprint"]) == (str(model), pipe.fingerprint)


def test_the_note_on_words_names_the_command_that_shows_all_of_them(
    make_pipeline: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = [f"word{letter}{other}" for letter in "abcdefgh" for other in "abcdefgh"]
    make_pipeline(data=training_words([" ".join(words)])).save_pretrained("many words")
    note = run("generate", "grimy", "--model", "many words", "--seconds", 0.1).output
    assert "Words it knows, 64 in all: wordaa, " in note
    assert "wordhh" not in note
    assert "... All of them: codecdiff inspect 'many words'\n" in note
    shown = " ".join(run("inspect", "many words").stdout.split())
    assert f"64 words in its captions, the most frequent first: {', '.join(words)}" in shown
    assert json.loads(run("inspect", "many words", "--json").stdout)["words"] == words


def test_plugins_are_listed_for_programs():
    listed = json.loads(run("plugins", "--json").output)
    assert {"kind": "splitters", "name": "coarse-first", "package": "codecdiff"}.items() <= next(
        row for row in listed if row["name"] == "coarse-first"
    ).items()
    assert len(listed) == len(registry.scan().plugins)


@pytest.mark.integration
def test_doctor_is_short_where_nothing_is_wrong():
    short = run("doctor").output
    assert len(short.splitlines()) < 8
    assert "Nothing is wrong" in short
    findings = json.loads(run("doctor", "--json").output)
    assert {"what", "state", "hint"} == set(findings[0])


# Checks at a small size.


@pytest.mark.parametrize("name", ["unet", "dit", "dac"])
def test_a_large_part_is_checked_at_the_small_size_that_it_declares(name: str, tmp_path: Path):
    pytest.importorskip(f"codecdiff_{name}")
    _, checks = start_checks(name, folder=tmp_path, seconds=0.5)
    part: Any = checks.part
    assert sum(parameter.numel() for parameter in part.parameters()) < 1_000_000
    assert f"codecdiff check {name} --full" in checks.notes[0]


def test_an_option_replaces_that_of_the_small_size(tmp_path: Path):
    pytest.importorskip("codecdiff_dit")
    _, checks = start_checks("dit", folder=tmp_path, assignments=["width=48"])
    arguments: Any = checks.part.arguments
    assert (arguments["width"], arguments["depth"]) == (48, 2)


# Recipes.


def test_a_configuration_is_named_or_a_file(tmp_path: Path):
    assert config_file("paper").name == "paper.yaml"
    assert config_file(str(config_file("starter"))).name == "starter.yaml"
    assert config_file("compare", "compare").name == "compare.yaml"
    with pytest.raises(
        UnknownName, match=r"No configuration 'papr'\. Did you mean 'paper'\? Installed, in .*configs: "
    ):
        config_file("papr")


def test_a_store_that_is_named_replaces_the_audio_that_the_file_names(store: CodeStore):
    named, file = f"data.store={store.folder}", config_file("starter")
    assert adapted([named, "output=a"], file) == [named, "output=a", "data.audio=null"]
    for words in ([named, "data.audio=music"], ["data.store=runs/new"], ["seed=1"]):
        assert adapted([*words, "output=a"], file) == [*words, "output=a"]


@pytest.mark.parametrize(
    ("words", "config", "kind", "output"),
    [
        ([], "starter", "", "starter-music"),
        (["data.audio=my songs/blues v1.2/"], "starter", "", "starter-blues v1.2"),
        (["data.audio=songs.parquet"], "starter", "", "starter-songs"),
        (["data.store=runs/mine/store"], "starter", "", "starter-mine"),
        (["data.store=stores/blues"], "starter", "", "starter-blues"),
        (["start_from=starter", "data.audio=blues"], "adapter", "lora", "starter-lora-blues"),
        (["start_from=runs/mine/model", "data.audio=blues"], "adapter", "dora", "mine-dora-blues"),
        (["start_from=owner/name", "data.audio=blues"], "distill", "distilled", "name-distilled-blues"),
    ],
)
def test_a_run_that_names_no_folder_is_named_after_what_is_trained_and_the_music(
    words: list[str], config: str, kind: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("songs.parquet", "runs/mine/store/header.json", "stores/blues/header.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (added,) = (word for word in adapted(words, config_file(config), kind) if word not in [*words, "data.audio=null"])
    assert added == f"output=runs/{output}"
    assert adapted([*words, "output=a"], config_file(config), kind)[len(words)] == "output=a"
    named = tmp_path / "own.yaml"
    named.write_text("{output: there}")
    assert not any(word.startswith("output") for word in adapted(words, named, kind))


def test_the_guidance_of_single_conditions_does_not_outlive_the_conditioner_of_the_file(tmp_path: Path):
    scales = "{sampling: {guidance_scale: {text: 1.5, key: 1}}, stages: {a: {}, b: {sampling: {guidance_scale: 2}}}}"
    (tmp_path / "divided.yaml").write_text(scales)
    (tmp_path / "whole.yaml").write_text("{seed: 1}")
    added = ["sampling.guidance_scale=1.5", "stages.b.sampling.guidance_scale=2"]
    for word in ("conditioner=null", "conditioner.name=words", "conditioner={name: words}"):
        words = [word, "output=a"]
        assert adapted(words, tmp_path / "divided.yaml") == [*words, *added]
        assert adapted(words, tmp_path / "whole.yaml") == words
    for words in (["seed=1"], ["conditioner=null", "stages.b.sampling.guidance_scale=3"]):
        assert adapted([*words, "output=a"], tmp_path / "divided.yaml") == [*words, "output=a"]


@pytest.mark.integration
@pytest.mark.parametrize("words", [["conditioner=null"], ["conditioner.name=words"]])
def test_the_default_configuration_takes_another_conditioner(words: list[str], music: Path, tmp_path: Path):
    pytest.importorskip("codecdiff_starter")
    shown = run("train", f"data.audio={music}", f"output={tmp_path / 'out'}", *words, "--plan")
    assert shown.exit_code == 0, shown.output


def test_train_ends_a_mistake_with_its_sentence(tmp_path: Path):
    assert "Did you mean 'max_train_steps'?" in refused("train", "train.max_train_stpes=3")
    assert f"No configuration '{tmp_path}/none.yaml'" in refused("train", "--config", tmp_path / "none.yaml")
    assert "compose music first: python -m" in refused("train", "data.audio=nowhere", f"output={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_train_plans_for_the_cpu_of_this_machine_in_human_times():
    shown = run("train", "--plan", "--device", "cpu").output
    assert re.search(
        r"^1 x cpu \(\d+ GB, [\d.e-]+ TFLOP/s in float32, measured now\), assuming that training reaches 40 %",
        shown,
    )
    assert re.search(r"^time +(\d+ \w+ )", shown, flags=re.M)
    assert re.search(r"Total: \d+ (s|min|h|d)( \d+ (s|min|h))? on 1 x cpu\.", shown)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h"), (1e8, "1157 d 9 h")],
)
def test_durations_have_units(seconds: float, text: str):
    assert format_duration(seconds) == text


def test_the_command_for_many_devices_in_the_readme_prints_no_warning_of_accelerate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    from accelerate.commands import launch

    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("accelerate launch ")]
    assert lines
    monkeypatch.setattr(launch, "default_config_file", str(tmp_path / "none"))
    for line in lines:
        arguments = launch.launch_command_parser().parse_args(line.split()[2:])
        launch._validate_launch_command(arguments)
        assert arguments.training_script == "recipes/discodiff.py"
    assert not caplog.messages


def test_an_entry_of_a_log_in_a_file_is_one_line_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    LogConsole().log("music/[live]/" * 40)
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] (music/\[live\]/){40}\n", capsys.readouterr().err)


# Errors.


def raised(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command that raises this."""

    def broken(name: str) -> None:
        raise error

    monkeypatch.setattr(registry.Plugin, "load", lambda self: broken)
    return run("push", "x")


@pytest.mark.parametrize(
    "error",
    [
        *(kind("of ours") for kind in (RuntimeError, ValueError, TypeError, LookupError, ImportError, OSError)),
        *(KeyError("ours"), IndexError(3), ModuleNotFoundError("No module named 'ours'"), ConnectionError("reset")),
        *(FileNotFoundError(errno.ENOENT, "No such file", "ours"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "ours")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_shows_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch):
    result = raised(error, monkeypatch)
    assert result.exception is error
    assert result.exit_code == 1
    assert not result.output


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_a_sentence(number: int, monkeypatch: pytest.MonkeyPatch):
    result = raised(OSError(number, os.strerror(number), "a.wav"), monkeypatch)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert result.output.startswith(f"'a.wav' cannot be read or written: {os.strerror(number)}. ")


@pytest.mark.parametrize("kind", UserError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_mistake_of_a_user_is_a_sentence_and_debug_shows_where(
    kind: type[UserError], monkeypatch: pytest.MonkeyPatch
):
    result = raised(error := kind("Invalid a: expected b."), monkeypatch)
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.output) == (1, "Invalid a: expected b.\n")
    monkeypatch.setenv("CODECDIFF_DEBUG", "1")
    assert raised(error, monkeypatch).exception is error


MISTAKES = {
    "generate x -o a.xyz": "Cannot write 'a.xyz': unknown audio format",
    "generate x -o none/a.wav": "Folder 'none' does not exist",
    "generate x --model none": "No model 'none'. Installed models: ",
    "generate x --model ./foldr": "Did you mean 'folder'? Installed models: ",
    "generate x --device nonsense": "Device 'nonsense' cannot be used",
    "inspect none.wav": "File 'none.wav' does not exist. Did you mean 'junk.wav'?",
    "inspect startr": "No model 'startr'. Did you mean 'starter'?",
    "inspect junk.wav": "'junk.wav'",
    "inspect list.yaml": "'list.yaml' cannot be read as audio: it contains text, not audio. Name an audio file.",
    "inspect folder": "folder does not hold a model: codecdiff.json is missing",
    "refine none.wav --keep 0": "none.wav",
    "inpaint junk.wav --from 0 --to 1": "'junk.wav' cannot be read as audio",
    "inpaint junk.wav": "Name the region to generate: --from 1:30 --to 1:45.",
    "inpaint junk.wav --to 1": "Every region needs both its ends, as in --from 1:30 --to 1:45, but got 0 ",
    "generate a slow waltz": "Got unexpected extra argument(s) (slow waltz). Put what has spaces in quotes",
    "generate x --seed first": "'first' is not a whole number",
    "data filter folder": "'folder' is a folder. Name a manifest",
    "replay folder": "No run.lock at 'folder/run.lock'. Name a folder that `codecdiff train` wrote",
    "encode none -o store": "none",
    "encode folder -o junk.wav": "holds no audio",
    "train --config none.yaml": "No configuration 'none.yaml'. Did you mean 'broken.yaml'? Installed, in",
    "train --config list.yaml": "list.yaml holds a list; a configuration is a mapping",
    "train --config broken.yaml": "broken.yaml is not valid YAML",
    "train --config junk.yaml": "junk.yaml",
    "train train.max_train_steps=many": "max_train_steps",
    "train --device cpu": "--device is for --plan alone",
    "train codec=nothing": "No codec named 'nothing'",
    "push folder me/model": "folder does not hold a model",
    "check nothing": "'nothing'",
    "new-plugin nothing x": "nothing",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_said_in_sentences(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("codecdiff_starter")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("folder").mkdir()
    Path("junk.wav").write_bytes(bytes(range(256)))
    Path("junk.yaml").write_bytes(bytes(range(256)))
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("a: [1\n")
    result = run(*words.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert MISTAKES[words] in result.output


def test_notes_do_not_bury_an_error(tmp_path: Path) -> None:
    pytest.importorskip("codecdiff_starter")
    said = refused("generate", "a polka", "--field", "bpm=fast", "--seconds", 9, "-o", tmp_path / "a.wav")
    assert said.endswith("Invalid tempo 'fast': expected beats per minute, e.g. 120.\n")
    assert not {"polka", "Seed", "trained"} & set(re.findall(r"\w+", said))
    options = ("--seconds", 6, "--steps", 1, "--field", "meter=7/8", "--field", "bpm=90", "-o", tmp_path / "a.wav")
    with pytest.warns(UserWarning, match="meter=7/8: expected 3/4 or 4/4"):
        notes = " ".join(run("generate", "a polka", *options).stderr.split())
    assert "The model was trained on clips" not in notes
    assert "'polka'" in notes


def test_progress_is_a_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Embedding", 3) as advance:
        for done in (1, 3):
            advance(done)
    assert capsys.readouterr().err == "Embedding: 3 of 3\n"
    with progress("Embedding", None) as advance:  # whose number is known later
        for done in (1, 4):
            advance(done, 4)
    assert capsys.readouterr().err == "Embedding: 4 of 4\n"


def test_a_warning_holds_no_control_characters() -> None:
    """Names in a model folder are of strangers: what is warned of reaches the terminal as text."""
    program = "import sys, warnings; from codecdiff.cli.main import app, main; sys.argv = ['codecdiff', '--version']\n"
    program += "try:\n    main()\nexcept SystemExit:\n    warnings.warn('red \\x1b[31m')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == "red \ufffd[31m\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_standard_output_is_named(options: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "codecdiff", "plugins", *options]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "Standard output cannot be written: No space left on device. Free space" in done.stderr
