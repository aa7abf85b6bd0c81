"""Files of strangers: what they ask for that they may not have, and the sentence that each is answered with."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from small import write_music
from typer.testing import CliRunner

import codecdiff
from codecdiff.cli.encode import require_new_store
from codecdiff.cli.main import app
from codecdiff.config import ExperimentConfig, load_config
from codecdiff.data.audio import MAX_SECONDS, BadAudio, read_audio, seconds_of
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import TrainingCrops
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.sealed import seal, write_sealed
from codecdiff.data.shards import MAX_MAPPED, ROWS, SHARD_FILES, block_checksums
from codecdiff.errors import UserError
from codecdiff.files import (
    BadDocument,
    lock_folder,
    parse_json,
    parse_yaml,
    read_json,
    read_yaml,
    sha256,
    write_parquet,
)
from codecdiff.files.documents import MAX_BYTES
from codecdiff.pipeline.untrusted import SWITCH, leads_outside
from codecdiff.training import read_logs

Change = Callable[[Any], None]


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust no model folder; conftest.py trusts those of the other tests."""
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the installed model in a folder of its own, without hashes, as a stranger would make it."""
    folder = tmp_path_factory.mktemp("stranger") / "model"
    codecdiff.load("starter").save_pretrained(folder)
    for file in folder.rglob("*.json"):
        spec = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in spec.items() if key not in ("files", "sha256")}))
    return folder


def changed(starter: Path, folder: Path, file: str, change: Change) -> Path:
    """Return a copy of a model with one of its JSON files changed."""
    shutil.copytree(starter, folder)
    spec = json.loads((folder / file).read_text())
    change(spec)
    (folder / file).write_text(json.dumps(spec))
    return folder


def put(*keys: Any) -> Change:
    """Return a function that puts the last argument at the place that the others name."""

    def change(spec: Any) -> None:
        for key in keys[:-2]:
            spec = spec[key]
        spec[keys[-2]] = keys[-1]

    return change


CACHED = {"name": "cached", "folder": "/anywhere/else", "conditioner": {"name": "words"}}
DEEP: Any = 1
for _ in range(80):
    DEEP = [DEEP]
HOSTILE: dict[str, tuple[str, Change, str]] = {
    "a cache anywhere": ("codecdiff.json", put("conditioner", CACHED), "is a place that would be written to"),
    "a cache inside": ("codecdiff.json", put("conditioner", {**CACHED, "folder": "c"}), "would be written to"),
    "a cache inside of another part": (
        "codecdiff.json",
        put("conditioner", {"name": "joined", "conditioners": [CACHED]}),
        "is a place that would be written to",
    ),
    "absolute weights": (
        "codecdiff.json",
        put("codec", "codec", {"name": "starter-neural", "weights": "/etc/passwd"}),
        "names a place outside of it, '/etc/passwd'",
    ),
    "weights above": (
        "codecdiff.json",
        put("codec", "codec", {"name": "starter-neural", "weights": "../../x"}),
        "names a place outside of it, '../../x'",
    ),
    "weights at home": (
        "codecdiff.json",
        put("codec", "codec", {"name": "starter-neural", "weights": "~/x"}),
        "names a place outside of it, '~/x'",
    ),
    "a model of Windows": ("codecdiff.json", put("codec", {"name": "dac", "model": "C:\\x"}), "a place outside of it"),
    "a hub id": ("codecdiff.json", put("codec", {"name": "dac", "model": "a/b"}), "fetch them: --allow-download"),
    "a width of 160 GB": ("primary/stage.json", put("denoiser", "width", 100_000), "does not hold the weights of this"),
    "endless blocks": (
        "primary/stage.json",
        put("denoiser", {"name": "dit", "width": 12, "heads": 2, "depth": 10**9}),
        "it has far fewer tensors",
    ),
    "a prediction of nothing": (
        "primary/stage.json",
        put("train_scheduler", "prediction_type", None),
        "Unknown prediction_type None",
    ),
    "a path of 100 kB": (
        "codecdiff.json",
        put("codec", "codec", {"name": "starter-neural", "weights": "x" * 100_000}),
        "holds a name or path of more than 1,024 characters",
    ),
    "a width of text": ("primary/stage.json", put("denoiser", "width", "wide"), "denoiser.width = 'wide'"),
    "heads of zero": ("primary/stage.json", put("denoiser", "heads", 0), "(128, 128) in the file and (128, 0) by"),
    "groups of minus one": ("primary/stage.json", put("denoiser", "groups", -1), "Invalid groups -1"),
    "1e11 timesteps": (
        "primary/stage.json",
        put("train_scheduler", "num_train_timesteps", 10**11),
        "num_train_timesteps=100000000000: expected 1 to 100,000",
    ),
    "timesteps of text": ("primary/stage.json", put("train_scheduler", "num_train_timesteps", "x"), "='x': expected 1"),
    "betas of text": (
        "primary/stage.json",
        put("train_scheduler", "beta_schedule", "x"),
        "describes what cannot be built",
    ),
    "another class": ("primary/stage.json", put("train_scheduler", "class", "Pipeline"), "Unknown training scheduler"),
    "no class": ("primary/stage.json", put("train_scheduler", {}), "Unknown training scheduler 'None'"),
    "steps of text": (
        "primary/stage.json",
        put("num_inference_steps", "x"),
        "num_inference_steps = 'x': expected a whole number",
    ),
    "endless steps": ("primary/stage.json", put("num_inference_steps", 10**9), "Invalid num_inference_steps"),
    "a scheduler of no name": ("primary/stage.json", put("scheduler", "nothing"), "nothing"),
    "a scheduler that is a list": ("primary/stage.json", put("scheduler", []), "scheduler = []: expected"),
    "a color beyond": ("primary/stage.json", put("noise_color", 1e300), "noise_color = 1e+300: expected at most"),
    "facts that are a list": ("primary/stage.json", put("training", []), "training = []: expected"),
    "a denoiser that is a text": ("primary/stage.json", put("denoiser", "unet"), "denoiser = 'unet': expected"),
    "a denoiser of no name": ("primary/stage.json", put("denoiser", {}), "A denoiser needs a name"),
    "a name that is a list": ("primary/stage.json", put("denoiser", "name", ["x"]), "A denoiser needs a name"),
    "an unknown denoiser": ("primary/stage.json", put("denoiser", "name", "x"), "No denoiser named 'x'"),
    "a derived option": ("primary/stage.json", put("denoiser", "channels", 3), "follows from the other parts"),
    "stages that are a text": ("codecdiff.json", put("stages", "primary"), "stages = 'primary': expected"),
    "a stage above": ("codecdiff.json", put("stages", ["../x"]), "expected the name of a folder inside the model"),
    "a target of no name": ("codecdiff.json", put("target", "x"), "target = 'x': expected"),
    "a codec that is a list": ("codecdiff.json", put("codec", []), "codec = []: expected"),
    "a codec inside that is a number": ("codecdiff.json", put("codec", "codec", 5), "A codec needs a name"),
    "a splitter of no end": (
        "codecdiff.json",
        put("splitter", {"name": "grouped", "stages": "0-999999999999"}),
        "stages",
    ),
    "a delay of no end": (
        "codecdiff.json",
        put("splitter", {"name": "delayed", "delay": 10**12}),
        "delay=1000000000000 frames",
    ),
    "hours that are a text": ("codecdiff.json", put("data", {"hours": "x"}), "data.hours = 'x': expected a number"),
    "facts that are deep": ("codecdiff.json", put("data", {"x": DEEP}), "is nested deeper than 64 levels"),
    "a number of 4000 digits": ("codecdiff.json", put("data", {"tracks": 10**4000}), "a number of more than 1000 bits"),
    "samples of no end": (
        "generation_config.json",
        put("num_waveforms_per_prompt", 10**12),
        "num_waveforms_per_prompt = 1000000000000: expected at most",
    ),
    "a day of music": (
        "generation_config.json",
        put("audio_length_in_s", 86400),
        "audio_length_in_s = 86400: expected",
    ),
    "another option": ("generation_config.json", put("x", 1), "x is not a known name"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_folder_is_answered_with_a_sentence(starter: Path, tmp_path: Path, name: str) -> None:
    file, change, sentence = HOSTILE[name]
    folder = changed(starter, tmp_path / "model", file, change)
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(UserError) as error:
        codecdiff.load(folder)
    assert sentence in str(error.value)
    assert len(str(error.value)) < 2000
    assert {path for path in tmp_path.rglob("*")} == before
    assert not Path("/anywhere/else").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("primary/stage.json", lambda spec: spec["denoiser"].update(width="wide")),
        ("primary/stage.json", lambda spec: spec["denoiser"].update(depth=-1)),
        ("primary/stage.json", lambda spec: spec["denoiser"].update(name="unheard-of")),
        ("codecdiff.json", lambda spec: spec["conditioner"].update(max_tokens=None)),
        ("codecdiff.json", lambda spec: spec["conditioner"].update(max_tokens=-1)),
    ],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_what_a_part_may_not_be_is_said_with_the_file_that_asks_for_it(
    starter: Path, tmp_path: Path, file: str, change: Change, trusted: bool
) -> None:
    folder = changed(starter, tmp_path / "model", file, change)
    with pytest.raises(UserError) as caught:
        codecdiff.Pipeline.from_pretrained(folder, allow_local_parts=trusted)
    assert str(tmp_path / "model") in str(caught.value)


def test_the_command_says_the_sentence_and_how_to_allow_it(starter: Path, tmp_path: Path) -> None:
    folder = changed(starter, tmp_path / "model", "codecdiff.json", put("conditioner", CACHED | {"folder": "/x"}))
    result = CliRunner().invoke(app, ["generate", "a", "--model", str(folder), "-o", str(tmp_path / "a.wav")])
    assert result.exit_code == 1
    assert "load it with --allow-local-parts" in result.output
    assert not (tmp_path / "a.wav").exists()


def test_places_are_used_if_they_are_inside_or_allowed(starter: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = {"name": "cached", "folder": str(cache), "conditioner": {"name": "words", "width": 128, "max_tokens": 48}}
    change = put("conditioner", {"name": "joined", "conditioners": [words, {"name": "tempo-and-key"}]})
    folder = changed(starter, tmp_path / "model", "codecdiff.json", change)
    pipe = codecdiff.load(folder, allow_local_parts=True)
    pipe("a", audio_length_in_s=0.2, num_inference_steps=1)
    assert list(cache.rglob("*.safetensors"))
    weights = Path(codecdiff.__file__).parents[1] / "plugins/codecdiff-starter/codecdiff_starter/codec.safetensors"
    spec = json.loads((folder / "codecdiff.json").read_text())
    spec |= {"conditioner": None, "codec": {"name": "starter-neural", "weights": "parts/w.safetensors"}, "stages": []}
    (folder / "codecdiff.json").write_text(json.dumps(spec))
    for name in ("primary", "codec"):
        shutil.rmtree(folder / name)
    (folder / "parts").mkdir()
    shutil.copy(weights, folder / "parts" / "w.safetensors")
    assert codecdiff.load(folder).codec.arguments["weights"] == str(folder / "parts" / "w.safetensors")
    (folder / "parts" / "w.safetensors").unlink()
    (folder / "parts" / "w.safetensors").symlink_to(weights)
    with pytest.raises(UserError, match="is a link to a place outside of it"):
        codecdiff.load(folder)


def test_what_leads_outside_is_so_on_any_system() -> None:
    inside = ["a", "a/b", "./a", "google/flan-t5-large", "a..b", "", "0|1-2", "\u00e4"]
    outside = ["/a", "..", "a/../b", "~", "~user/x", "C:/a", "C:\\a", "a\\..\\b", "\\\\host\\x", "/"]
    assert [leads_outside(path) for path in inside] == [False] * len(inside)
    assert [leads_outside(path) for path in outside] == [True] * len(outside)


# Documents


def in_time(function: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the error that a function raises, within a time."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert result, "it waits"
    return result[0]


@pytest.mark.parametrize("read", [read_json, read_yaml, CodeStore, codecdiff.load, Manifest.read])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "zero"])
def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path, read: Callable[[Any], Any], kind: str) -> None:
    names = {CodeStore: "header.json", codecdiff.load: "codecdiff.json"}
    file = tmp_path / names.get(read, "x.parquet")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "zero":
        file.write_bytes(bytes(3))
    else:
        file.symlink_to("/dev/zero" if kind == "device" else file)
    assert isinstance(in_time(lambda: read(tmp_path if read in names else file)), UserError)


DOCUMENTS = {
    "a: &x [1, 1]\nb: &y [*x, *x]\nc: *y": "it has an alias",
    "a: " + "[" * 100: "nested deeper than 64 levels",
    "a: !!python/object/apply:os.system [x]": "could not determine a constructor",
    "a: !!bool maybe": "is not valid YAML",
    "? {a: b}\n: c": "is not valid YAML",
    "[a": "is not valid YAML",
    "- a": "a configuration is a mapping",
    "1: 2": "a configuration is a mapping",
    "codec: 5": "codec = 5",
    "train: [1]": "train = [1]",
    "train: {max_train_steps: 1.5}": "train.max_train_steps = 1.5",
    "diffusion: {num_train_timesteps: 1e11}": "num_train_timesteps",
    "diffusion: {num_train_timesteps: 100000000000}": "num_train_timesteps",
    "stages: {primary: x}": "stages.primary = 'x'",
    "sampling: {guidance_scale: .nan}": "guidance_scale",
}


@pytest.mark.parametrize("text", DOCUMENTS)
def test_a_hostile_configuration_is_answered_with_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(ExperimentConfig, tmp_path / "c.yaml", ["seed=1", "train.max_train_steps=2"])
    assert DOCUMENTS[text] in str(error.value)
    assert "c.yaml" in str(error.value)


def test_documents_are_bounded() -> None:
    for text in ('"' + "x" * MAX_BYTES + '"', "[" * 65 + "]" * 65, "[" * 10**6, "1" + "0" * 400, '"\\ud800"', b"\xff"):
        with pytest.raises(BadDocument, match="It "):
            parse_json(text, "It")
    assert parse_json("[" * 64 + "]" * 64, "It")
    assert parse_json(b'{"a": "\xc3\xa4"}', "It", dict[str, str]) == {"a": "\u00e4"}
    with pytest.raises(BadDocument, match=r"It cannot be used: a = 'x': expected a whole number"):
        parse_json('{"a": "x"}', "It", dict[str, int])


def test_integers_are_no_weights(starter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(starter, folder)
    weights = folder / "primary" / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(UserError, match="does not hold the weights of this stage: 1 of its tensors differ"):
        codecdiff.load(folder)


def test_a_log_and_a_link_of_a_stranger_are_answered_with_a_sentence(starter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(starter, folder)
    (folder / "primary" / "log.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"log\.jsonl' is damaged: a line is not JSON"):
        read_logs(folder, ["primary"])
    (folder / "primary" / "training" / "step-000001 (copy)").mkdir(parents=True)
    codecdiff.load(folder)
    (folder / "primary" / "stage.json").unlink()
    (folder / "primary" / "stage.json").symlink_to("stage.json")
    with pytest.raises(UserError, match=r"stage\.json' cannot be read: Too many levels of symbolic links"):
        codecdiff.load(folder)


def test_yaml_ignores_nothing_and_stays_small() -> None:
    for text, what in (
        ("a: 1\nb: {c: 1, c: 2}", "a key stands twice in a mapping, 'c', line 2"),
        ("a: [*b]", "it has an alias"),
        ("[" + "a," * 200_000 + "]", "it has more than 100,000 values"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: " + ":".join(["1"] * 300) + ".5", "too large to convert"),  # to base 60
        ("a: 1\nb: " + ":".join(["1"] * 1000), "line 2 has a number of 1,999 digits"),
    ):
        with pytest.raises(BadDocument, match=what):
            parse_yaml(text, "It")
    assert parse_yaml("a: {<<: {b: 1}, b: 2}\nc: [b, b]", "It") == {"a": {"b": 2}, "c": ["b", "b"]}
    assert parse_yaml("# nothing", "It") is None


# Audio, manifests and stores


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (7999, 1), (900_000, 1), (44_100, 65)])
def test_audio_out_of_bounds_is_refused(tmp_path: Path, rate: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((64, channels), np.float32), rate)
    with pytest.raises(BadAudio, match="expected"):
        read_audio(tmp_path / "a.wav", 8000, 1)
    assert seconds_of(tmp_path / "a.wav") == 0  # it cannot be read


@pytest.mark.integration
def test_more_than_an_hour_is_not_read_at_once(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(round((MAX_SECONDS + 2) * 8000), np.int16), 8000)
    with pytest.raises(BadAudio, match="is longer than 1 h"):
        read_audio(tmp_path / "a.flac", 8000, 1)
    assert read_audio(tmp_path / "a.flac", 8000, 1, start=MAX_SECONDS, seconds=0.5).shape == (1, 4000)
    words = ["refine", str(tmp_path / "a.flac"), "-o", str(tmp_path / "b.wav"), "--keep", "0"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "is longer than 1 h" in result.output


@pytest.mark.parametrize("audio", ["/etc", "../" * 40 + "etc", "C:\\music", "a\\..\\b", "a\0b"])
def test_a_manifest_names_no_folder_of_another_place(tmp_path: Path, audio: str) -> None:
    import pyarrow.parquet as pq

    Manifest(tmp_path, [ManifestRow("a", "passwd", True)]).write(tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    header = json.dumps({"format": 2, "audio": audio, "facts": {}}).encode()
    pq.write_table(table.replace_schema_metadata({b"codecdiff": header}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="If it is right, name it: --audio"):
        Manifest.read(tmp_path / "m.parquet").tracks()
    assert Manifest.read(tmp_path / "m.parquet", audio=tmp_path).tracks()[0].file == tmp_path / "passwd"


@pytest.mark.parametrize("file", ["/etc/passwd", "../x.wav", "a/../../x.wav", "C:\\x.wav", "a\0b"])
def test_a_manifest_names_no_file_outside(tmp_path: Path, file: str) -> None:
    Manifest(tmp_path, [ManifestRow("a", file, True)]).write(tmp_path / "m.parquet")
    manifest = Manifest.read(tmp_path / "m.parquet")
    assert not manifest.tracks()
    assert "Its audio has to lie in the manifest's folder" in manifest.without_audio()["a"]


def read_all(folder: Path) -> list[np.ndarray]:
    store = CodeStore(folder)
    return [np.array(store.codes(i)) for i in range(len(store))]


def error_of(folder: Path) -> UserError | None:
    try:
        read_all(folder)
    except UserError as error:
        return error
    return None


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "flip": lambda data, at: data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :],
    "cut": lambda data, at: data[:at],
    "zero": lambda data, at: data[:at] + bytes(len(data) - at),
    "append": lambda data, at: data + b"\1",
    "empty": lambda data, at: b"",
}


@pytest.mark.parametrize("how", [*DAMAGE, "missing", "swap"])
def test_a_damaged_store_is_noticed_and_the_file_named(store: CodeStore, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "store"
    names = sorted(f.relative_to(store.folder).as_posix() for f in store.folder.rglob("*") if f.is_file())
    other = {name: names[i - 1] for i, name in enumerate(names)}
    for name in names:
        contents = (store.folder / name).read_bytes()
        draws = np.random.default_rng(len(name)).integers(0, len(contents), 12).tolist()
        for place in draws if how in ("flip", "cut") else [len(contents) // 2]:
            shutil.copytree(store.folder, folder)
            if how == "missing":
                (folder / name).unlink()
            elif how == "swap":
                shutil.copy(store.folder / other[name], folder / name)
            else:
                (folder / name).write_bytes(DAMAGE[how](contents, place))
            error = error_of(folder)
            assert Path(name).name in str(error) or name == "header.json", str(error)
            shutil.rmtree(folder)


def write_store_of_shards(folder: Path, count: int) -> None:
    """Write a store of as many shards, each of one row of two frames, whose codes are its number's last digit."""
    (folder / "shards").mkdir(parents=True)
    kinds = min(count, 10)
    for i in range(count):  # names of few files
        file = folder / "shards" / f"{i:05d}.npy"
        if i < kinds:
            np.save(file, np.full((2, 3), i, np.uint16))
        else:
            os.link(folder / "shards" / f"{i % kinds:05d}.npy", file)
    codes = [np.full((2, 3), i, np.uint16) for i in range(kinds)]
    numbers = pa.array(np.arange(count, dtype=np.int32))
    texts = {name: pa.array([""] * count) for name in ("license", "source", "split")}
    texts |= {"metadata": pa.array(["{}"] * count), "track": pa.array([f"{i}.wav" for i in range(count)])}
    texts |= {"checksum": texts["track"], "captions": pa.array([["one"]] * count)}
    columns = {**texts, "shard": numbers, "seconds": pa.array([1.0] * count), "offset": pa.array([0.0] * count)}
    columns |= {
        "frames": pa.array([2] * count),
        "crc32": pa.array([block_checksums(codes[i % kinds]) for i in range(count)]),
    }
    zeros = pa.array([0] * count)
    arrays = [columns.get(each.name, zeros if pa.types.is_integer(each.type) else pa.nulls(count)) for each in ROWS]
    write_parquet(folder / "manifest.parquet", pa.table(arrays, ROWS.names).cast(ROWS))
    names = [f"{i:05d}.npy" for i in range(count)]
    hashes = [sha256(folder / "shards" / name) for name in names[:kinds]]
    size = (folder / "shards" / names[0]).stat().st_size
    table = pa.table([names, [size] * count, [hashes[i % kinds] for i in range(count)]], schema=SHARD_FILES)
    write_parquet(folder / "shards.parquet", table)
    header = {"format": 2, "codec": {"name": "dac"}, "weights": "0", "num_codebooks": 3, "frame_rate": 50.0}
    header |= {"shards": count, "continuous": False}
    sealed = ("manifest.parquet", "shards.parquet")
    write_sealed(folder / "header.json", header, seal(folder, {name: sha256(folder / name) for name in sealed}))


@pytest.mark.parametrize("count", [1500, pytest.param(100_000, marks=pytest.mark.integration)])
def test_a_store_of_many_shards_keeps_no_file_open(tmp_path: Path, count: int) -> None:
    import resource

    write_store_of_shards(tmp_path / "store", count)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, limits[1]), limits[1]))
    try:
        before = len(os.listdir("/proc/self/fd"))
        store = CodeStore(tmp_path / "store")
        rows = np.random.default_rng(0).integers(0, count, 5000).tolist()
        assert all((store.codes(i) == i % 10).all() for i in rows)
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    shutil.rmtree(tmp_path / "store")
    assert len(rows) < MAX_MAPPED
    codes = TrainingCrops(store, rows, 2).batch(range(5000)).codes  # what was mapped stays so
    assert sorted(codes[:, 0, 0].tolist()) == sorted(i % 10 for i in rows)


def test_a_store_is_read_where_little_may_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store_of_shards(tmp_path / "store", 40)
    real, mapped = pa.memory_map, list[str]()

    def memory_map(path: str) -> Any:
        if len(mapped) % 8 == 7 and mapped[-1] != path:
            mapped.append(path)
            raise OSError(errno.ENOMEM, "no room for more")
        mapped.append(path)
        return real(path)

    monkeypatch.setattr(pa, "memory_map", memory_map)
    store = CodeStore(tmp_path / "store")
    assert [store.codes(i)[0, 0] for i in range(40)] == [i % 10 for i in range(40)]
    assert len(mapped) > 40


def test_a_store_is_locked_while_it_is_made_and_a_finished_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    music = write_music(tmp_path / "music", 2)
    words = ["encode", str(music), "-o", str(tmp_path / "store"), "--codec", "starter-neural"]
    with lock_folder(tmp_path / ".store.part"):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert f"is being written by another run (process {os.getpid()} on " in result.output
    assert CliRunner().invoke(app, words).exit_code == 0
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    assert "is complete: an earlier run of this command wrote it" in again.output
    with monkeypatch.context() as patched:  # another process finishes it once this one has looked
        checks = iter([lambda *_: None, require_new_store])
        patched.setattr("codecdiff.cli.encode.require_new_store", lambda *arguments: next(checks)(*arguments))
        meanwhile = CliRunner().invoke(app, words)
    assert meanwhile.exit_code == 0, meanwhile.output
    assert "is complete: an earlier run of this command wrote it" in meanwhile.output
    contents = (music / "0.wav").read_bytes()
    (music / "0.wav").write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    replaced = CliRunner().invoke(app, words)
    assert replaced.exit_code == 1
    assert "was made from other audio: 0.wav changed after it" in " ".join(replaced.output.split())
    (music / "0.wav").unlink()
    other = CliRunner().invoke(app, words)
    assert other.exit_code == 1
    assert "exists already" in other.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["music", "store"]


def test_features_of_prompts_are_computed_again_when_damaged(tmp_path: Path) -> None:
    from letters import Letters

    from codecdiff.conditioners.cached import CachedConditioner

    cached = CachedConditioner(Letters(), tmp_path)
    expected = cached.encode(["slow"])["letters"].tokens
    (file,) = (tmp_path / Letters().fingerprint()).rglob("*.safetensors")
    contents = file.read_bytes()
    for place in (3, len(contents) // 2, len(contents) - 5, len(contents) - 1):
        file.write_bytes(contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :])
        again = CachedConditioner(Letters(), tmp_path)
        assert torch.equal(again.encode(["slow"])["letters"].tokens, expected)
        assert file.read_bytes() == contents
        file.write_bytes(contents[:place])
        again.prepare(["slow"])
        assert file.read_bytes() == contents
