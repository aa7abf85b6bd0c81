"""What reads files of strangers: a valid input of each kind, and the reader that it is for.

A reader may raise a subclass of `UserError`, whose message is a sentence, and nothing else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from codecdiff_datasets.append_log import AppendLog
from codecdiff_datasets.captioners.answers import Answer, Answers, InvalidAnswer
from codecdiff_datasets.captioners.chat_server import Response
from codecdiff_datasets.importers import Columns, read_data_set
from codecdiff_datasets.join import read_records
from codecdiff_datasets.ranking import read_likelihoods
from codecdiff_eval.embeddings import read_vectors, write_vectors
from codecdiff_eval.evaluation_report import add_model_index
from codecdiff_eval.results import EvalReport

from codecdiff.cli.check import prompts_of
from codecdiff.cli.replay import expected_weights, replayed_experiment
from codecdiff.conditioners.cached import FeatureCache
from codecdiff.config import ExperimentConfig, load_config
from codecdiff.data.audio import stream_audio
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.job import read_plan
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import find_tracks
from codecdiff.data.sealed import seal, write_sealed
from codecdiff.data.shards import ROWS, SHARD_FILES, block_checksums
from codecdiff.files import read_safetensors, sha256, write_parquet, write_safetensors
from codecdiff.interfaces.condition import Condition, ConditionTokens
from codecdiff.pipeline.checkpoint import read_config
from codecdiff.pipeline.generation import load_generation_config
from codecdiff.pipeline.provenance import GenerationRequest
from codecdiff.pipeline.run_lock import RunLock, RunRecord, read_run_lock
from codecdiff.pipeline.stage_folder import read_stage_config
from codecdiff.pipeline.untrusted import confine

Read = Callable[[Path], object]
STARTER = Path(__file__).parents[2] / "plugins/codecdiff-starter/codecdiff_starter/model"


@dataclass(frozen=True)
class Reader:
    """A reader of one file: its name in a folder, its valid contents, and how the folder is read.

    also: other files of the folder, by name.
    """

    name: str
    contents: bytes
    read: Read
    also: dict[str, bytes] = field(default_factory=dict)


def _wave(format_name: str, subtype: str | None = None, comment: str = "") -> bytes:
    stream = io.BytesIO()
    tone = 0.5 * np.sin(np.arange(4000) / 9)
    with soundfile.SoundFile(stream, "w", 16_000, 2, subtype, format=format_name) as sound:
        if comment:
            sound.comment = comment
        sound.write(np.stack([tone, -tone], 1))
    return stream.getvalue()


def _show(issue: object) -> None:
    str(issue)


def _audio(folder: Path) -> None:
    for file in folder.iterdir():
        for _ in stream_audio(file, 8000, 1, seconds=2.0):
            pass


def _tracks(folder: Path) -> None:
    for track in find_tracks(folder, _show):
        json.dumps([track.captions, dict(track.metadata)], default=str)


def _manifest(folder: Path) -> None:
    manifest = Manifest.read(folder / "m.parquet")
    manifest.as_dicts()
    manifest.tracks()


def _store(folder: Path) -> None:
    store = CodeStore(folder)
    for i in range(len(store)):
        store.codes(i, 3, 40)
        store.metadata(i)
    store.fitted_state()
    store.summary()


def _store_files(folder: Path, *, is_sealed: bool) -> dict[str, bytes]:
    """Write a store of two rows, and return its files."""
    codes = np.arange(300, dtype=np.uint16).reshape(100, 3) % 64
    (folder / "shards").mkdir(parents=True)
    np.save(folder / "shards" / "00000.npy", codes)
    row: dict[str, Any] = {"captions": ["one"], "metadata": '{"bpm": 90}', "license": "CC0", "source": "", "split": ""}
    row |= {"seconds": 1.0, "checksum": "0", "bytes": 9, "segment": 0, "offset": 0.0, "shard": 0, "frames": 50}
    rows = [
        {**row, "track": f"{i}.wav", "start": 50 * i, "crc32": block_checksums(codes[50 * i : 50 * i + 50])}
        for i in range(2)
    ]
    import pyarrow as pa

    write_parquet(folder / "manifest.parquet", pa.Table.from_pylist(rows, ROWS))
    size, digest = (folder / "shards/00000.npy").stat().st_size, sha256(folder / "shards/00000.npy")
    write_parquet(folder / "shards.parquet", pa.table([["00000.npy"], [size], [digest]], schema=SHARD_FILES))
    header = {"format": 2, "codec": {"name": "dac"}, "weights": "0", "num_codebooks": 3, "frame_rate": 50.0}
    header |= {"shards": 1, "continuous": False, "skipped": [], "tracks": 2, "segmentation": {"segment": None}}
    names = ("manifest.parquet", "shards.parquet")
    if is_sealed:
        write_sealed(folder / "header.json", header, seal(folder, {n: sha256(folder / n) for n in names}))
    else:
        (folder / "header.json").write_text(json.dumps(header))
        (folder / "shards.parquet").unlink()
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def _model(folder: Path) -> None:
    spec = read_config(folder)
    for kind in ("codec", "splitter", "conditioner"):
        if spec[kind]:
            confine(f"{kind}s", spec[kind], folder)
    load_generation_config(folder)


def _lock(folder: Path) -> None:
    file = folder / "run.lock"
    lock = read_run_lock(file)
    expected_weights(file, lock)
    for record in lock.runs:
        replayed_experiment(record, file, folder, ["data.store=s"], allow_local_parts=False)


def _lock_file() -> bytes:
    """Return a run.lock without its seal, which would end the reading of every damaged one."""
    spec: dict[str, Any] = {"codec": {"name": "starter"}, "denoiser": {"name": "unet", "width": 16}}
    spec |= {"splitter": {"name": "coarse-first"}, "conditioner": {"name": "words"}, "data": {"audio": "music"}}
    spec |= {"stages": {"primary": {"start_from": "weights", "denoiser": {"width": 8}}}}
    record: dict[str, Any] = {"stages": ["primary"], "commands": ["codecdiff train"], "seeds": {"seed": 0}}
    record |= {"places": ["data.audio"], "data": {"tracks": 1}, "code": {"recipe": "0"}, "environment": {"threads": 1}}
    run = RunRecord(**record, configuration=spec)
    return RunLock(runs=[run], weights={"primary": {"a": "0"}}).model_dump_json().encode()


def _features(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    cache = FeatureCache(folder)
    cache.file = lambda key: file  # pyright: ignore[reportAttributeAccessIssue]
    cache.read("", ["text"])


def _answer(folder: Path) -> None:
    body = (folder / "a.json").read_text(encoding="utf-8", errors="replace")
    Response(400, {"retry-after": body[:40]}, body).retry_after()
    Response(400, {}, body).error()
    with suppress(InvalidAnswer):
        Answer.parse(body)


def _log(folder: Path) -> None:
    with AppendLog(folder / "a.jsonl") as log:
        list(log.rows())


def _table(format_name: str, *names: str) -> Read:
    return lambda folder: read_data_set(
        format_name, [str(folder / name) for name in names], _show, audio=None, columns=Columns()
    )


def readers(folder: Path) -> list[Reader]:
    """Make valid inputs in an empty folder, and return all readers."""
    tokens = torch.arange(8.0).reshape(1, 2, 4)
    FeatureCache(folder / "cache").write("", Condition({"text": ConditionTokens(tokens, torch.ones(1, 2).bool())}))
    features = next((folder / "cache").rglob("*.safetensors")).read_bytes()
    write_safetensors(folder / "t.safetensors", {"a": tokens, "b": torch.ones(3).half()}, {"k": "v"})
    tensors = (folder / "t.safetensors").read_bytes()
    write_vectors(folder / "v.safetensors", "vectors", {"a": tokens}, {"b": 1})
    vectors = (folder / "v.safetensors").read_bytes()
    rows = [ManifestRow(f"{i}", f"{i}.wav", True, 1.0, {"genre": ["rock"]}, ["one"], "CC0") for i in range(3)]
    Manifest(folder, rows, {"source": "x"}).write(folder / "m.parquet")
    manifest, wav = (folder / "m.parquet").read_bytes(), _wave("WAV")
    store = _store_files(folder / "sealed", is_sealed=True)
    plain = _store_files(folder / "plain", is_sealed=False)
    request = {"codecdiff": "0.1.0", "model": "0" * 32, "prompt": {"text": "a"}, "generation": {"seed": 1}}
    answer = {"choices": [{"message": {"content": "A song."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
    model = {n: (STARTER / n).read_bytes() for n in ("codecdiff.json", "primary/stage.json")}
    model["generation_config.json"] = b'{"audio_length_in_s": 5.0, "seed": 3, "guidance_scale": {"text": 2.0}}'
    plan = {"inputs": {"a": 1}, "weights": "0", "num_codebooks": 3, "frame_rate": 50.0, "tasks": [[2, 1.5], [1, 2.0]]}
    yaml = b"codec: {name: dac}\nsplitter: {name: coarse-first}\ndenoiser: {name: unet, width: 32}\n"
    yaml += b"train: {max_train_steps: 10, loss: l2}\nstages:\n  primary:\n    train: {max_train_steps: 5}\nseed: 3\n"
    report = {"format": 3, "title": "t", "rows": [], "dataset": "d", "dataset_id": "i", "facts": {"a": 1}, "codec": []}
    csv = b'file_name,text,bpm\na.wav,"one, two",90\na.wav,three,\n'
    log = b'{"track": "a", "text": "b"}\n{"track": "c", "text": "d"}\n'
    likelihoods = b"id,CLAP-log-likelihood\n1,-3.5\n2,-4.5\n"
    jamendo = b"TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
    jamendo += b"track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock\tmood---calm\n"
    caps = b"ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,"
    caps += b"is_audioset_eval\nabc,0,10,\"/m/0,/m/1\",\"['rock', 'calm']\",A song.,4,False,True\n"

    def store_reader(name: str, files: dict[str, bytes]) -> Reader:
        return Reader(name, files[name], _store, {n: contents for n, contents in files.items() if n != name})

    def model_reader(name: str, read: Read) -> Reader:
        return Reader(name, model[name], read, {n: contents for n, contents in model.items() if n != name})

    audio = [
        Reader("a.wav", wav, _audio),
        Reader("a.rf64.wav", _wave("RF64"), _audio),
        Reader("a.w64.wav", _wave("W64"), _audio),
        Reader("float.wav", _wave("WAV", "FLOAT"), _audio),
        Reader("ulaw.wav", _wave("WAV", "ULAW"), _audio),
        Reader("gsm.aiff", _wave("AIFF"), _audio),
        Reader("a.flac", _wave("FLAC"), _audio),
        Reader("a.ogg", _wave("OGG"), _audio),
        Reader("a.opus", _wave("OGG", "OPUS"), _audio),
        Reader("a.mp3", _wave("MP3"), _audio),
        Reader("a.au", _wave("AU"), _audio),
    ]
    return [
        *audio,
        Reader("c.wav", _wave("WAV", comment=json.dumps(request)), lambda f: GenerationRequest.from_file(f / "c.wav")),
        Reader(
            "c.flac", _wave("FLAC", comment=json.dumps(request)), lambda f: GenerationRequest.from_file(f / "c.flac")
        ),
        Reader("metadata.csv", csv, _tracks, {"a.wav": wav}),
        Reader("metadata.tsv", csv.replace(b",", b"\t"), _tracks, {"a.wav": wav}),
        Reader(
            "metadata.jsonl",
            b'{"file_name": "a.wav", "text": ["x"], "bpm": 3}\n{"file_name": "b"}\n',
            _tracks,
            {"a.wav": wav},
        ),
        Reader("a.txt", "one\nzwei \u00fc\n".encode(), _tracks, {"a.wav": wav}),
        Reader("m.parquet", manifest, _manifest),
        store_reader("header.json", store),
        store_reader("manifest.parquet", store),
        store_reader("shards.parquet", store),
        store_reader("shards/00000.npy", store),
        store_reader("header.json", plain),
        store_reader("manifest.parquet", plain),
        store_reader("shards/00000.npy", plain),
        model_reader("codecdiff.json", _model),
        model_reader("generation_config.json", _model),
        model_reader("primary/stage.json", lambda f: read_stage_config(f / "primary")),
        Reader("run.lock", _lock_file(), _lock),
        Reader("plan.json", json.dumps(plan).encode(), read_plan),
        Reader("c.yaml", yaml, lambda f: load_config(ExperimentConfig, f / "c.yaml", ["seed=4", "denoiser.width=64"])),
        Reader(
            "t.safetensors",
            tensors,
            lambda f: read_safetensors(f / "t.safetensors"),
        ),
        Reader("v.safetensors", vectors, lambda f: read_vectors(f / "v.safetensors", "vectors")),
        Reader("f.safetensors", features, _features),
        Reader("report.json", json.dumps(report).encode(), EvalReport.read),
        Reader("README.md", b"---\ntags: [a]\n---\n# Title\n", lambda f: add_model_index(f, {"model-index": []})),
        Reader("p.jsonl", b'"one"\n{"text": "two"}\n', lambda f: prompts_of(f / "p.jsonl")),
        Reader("a.jsonl", log, _log),
        Reader(
            "answers.jsonl",
            b'{"key": "k", "text": "t", "ended": "stop", "refused": false, "tokens_read": 1, "tokens_written": 2}\n',
            lambda f: Answers(f / "answers.jsonl").close(),
        ),
        Reader("a.json", json.dumps(answer).encode(), _answer),
        Reader("r.csv", likelihoods, lambda f: read_likelihoods(f / "r.csv", _show)),
        Reader("j.csv", csv, lambda f: list(read_records(str(f / "j.csv"), _show))),
        Reader("j.parquet", manifest, lambda f: list(read_records(str(f / "j.parquet"), _show))),
        Reader("autotagging.tsv", jamendo, _table("jamendo", "autotagging.tsv")),
        Reader("musiccaps.csv", caps, _table("musiccaps", "musiccaps.csv")),
    ]
