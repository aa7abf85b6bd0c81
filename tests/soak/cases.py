"""Tiny runs of the commands that write files, with what they start from, for `accidents.py`."""

from __future__ import annotations

import os
import random
import shutil
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any

import soundfile
import torch
import yaml
from accidents import DAMAGES, HERE, Case, damaged
from small import RATE, tone, write_music
from tqdm import tqdm

import codecdiff
from codecdiff import config, registry, training
from codecdiff.cli import encode, generate  # noqa: F401  # what commands import is warm
from codecdiff.conditioners.cached import FeatureCache
from codecdiff.data import CachedEmbedder
from codecdiff.data.code_store import CodeStore
from codecdiff.data.manifest import Manifest
from codecdiff.data.metadata import find_tracks
from codecdiff.errors import UserError
from codecdiff.pipeline import stage_folder
from codecdiff.pipeline.code_version import _code_version
from codecdiff.pipeline.run_lock import read_run_lock
from codecdiff.pipeline.stage_folder import verify_generation
from codecdiff.testing.tiny import write_tiny
from codecdiff.training import read_logs
from codecdiff.training.run_record import source_hashes

STARTER = HERE.parents[1] / "plugins/codecdiff-starter/codecdiff_starter/model"
DENOISER = {"name": "dit", "width": 8, "depth": 1, "heads": 2}
PARTS = (  # whose code codecdiff.json and run.lock record
    *(("codecs", name) for name in ("dac", "normalized")),
    *(("splitters", name) for name in ("coarse-first", "parallel")),
    *(("conditioners", name) for name in ("words", "cached")),
    ("denoisers", DENOISER["name"]),
)
NAMES = (  # of commands; the method of that name returns its words
    *("train-two", "train-one", "adapter", "distill", "replay", "encode", "import", "import-hf", "split", "caption"),
    *("rank", "evaluate", "compare", "listen", "generate", "edit", "new-plugin"),
)


class Cases:
    """The commands, whose inputs are written to a folder when they are needed."""

    def __init__(self, folder: Path):
        self.folder = folder
        torch.set_num_threads(1)
        source_hashes()  # of what runs, should a file be edited meanwhile
        for kind, name in PARTS:
            _code_version(registry.load_entry(kind, name))  # as that of every process that is forked
        tqdm.set_lock(RLock())  # its own is shared with all that are forked, also with one that is killed holding it
        training.call_run_end_hooks = lambda folder: None  # reports of other packages
        self.codec = {"name": "dac", "model": str(write_tiny("dac", folder / "dac"))}
        self.music = write_music(folder / "music", 3, 0.3)
        self._cases: dict[str, Case] = {}
        self._damaged: list[tuple[Path, Callable[[Path], list[str]]]] = []

    def names(self, part: str) -> list[str]:
        """Return the names of commands that contain a text."""
        return [name for name in NAMES if part in name] or [part]

    def case(self, name: str) -> Case:
        """Return a command by its name, after a run without accidents."""
        if name not in self._cases:
            case = Case(name, self.folder, *getattr(self, f"_{name}".replace("-", "_"))())
            case.prepare()
            self._cases[name] = case
        return self._cases[name]

    @property
    def model(self) -> Path:
        """Return a folder with a trained model, its state and its log, and the store it was trained on."""
        home = self.folder / "model"
        if not home.exists():
            shutil.copytree(self.case("train-two").out, home)
            shutil.copytree(self.store, home / "store", dirs_exist_ok=True)
        return home / "model"

    @property
    def store(self) -> Path:
        """Return a store of the music, in three shards."""
        home = self.folder / "store"
        if not home.exists():
            shutil.copytree(self.case("encode").out / "store", home)
        return home

    def _settings(self, name: str, **changes: Any) -> Path:
        train = {"max_train_steps": 4, "warmup_steps": 0, "train_batch_size": 2, "crop_seconds": 0.05}
        settings = {
            "codec": self.codec,
            "splitter": {"name": "coarse-first"},
            "conditioner": {"name": "words"},
            "denoiser": DENOISER,
            "data": {"store": str(self.store), "validation_fraction": 0.4},
            "train": {**train, "checkpointing_steps": 2, "validation_steps": 2},
            "diffusion": {"num_train_timesteps": 10},
            "sampling": {"scheduler": "ddim", "num_inference_steps": 2},
            "report_to": [],
            "prompts": ["a tone"],
            "seconds": 0.05,
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**settings, **changes}))
        return file

    def _train_two(self) -> list[Any]:
        """Train a model of two stages."""
        return ["train", "--config", self._settings("two"), "output=" + str(self.folder / "runs/train-two/out")]

    def _train_one(self) -> list[Any]:
        """Train a model of one stage, with its music encoded first, and features of prompts in a cache."""
        out = self.folder / "runs/train-one/out"
        words = {"name": "cached", "folder": str(out / "cache"), "conditioner": {"name": "words"}}
        data = {"audio": str(self.music), "validation_fraction": 0.4}
        file = self._settings("one", splitter={"name": "parallel"}, conditioner=words, data=data)
        return ["train", "--config", file, f"output={out}"]

    def _adapter(self) -> list[Any]:
        """Train an adapter of both stages of a model."""
        return ["train", "--adapter", "lora", f"start_from={self.model}", "adapter.rank=2", *self._few_steps()]

    def _distill(self) -> list[Any]:
        """Distill one stage of a model."""
        return ["distill", self.model, "--stage", "secondary", "--steps", "2", *self._few_steps()]

    def _few_steps(self) -> list[str]:
        steps = ["train.max_train_steps=2", "train.checkpointing_steps=1"]
        return [*steps, f"data.store={self.store}", "report_to=none", "output=@"]

    def _replay(self) -> list[Any]:
        """Train a model again, and keep it."""
        return ["replay", self.model, f"data.store={self.store}", f"codec.model={self.codec['model']}", "-o", "@r"]

    def _encode(self) -> list[Any]:
        """Encode music into a store of several shards."""
        options = ["--codec", "dac", "--set", f"model={self.codec['model']}", "--continuous"]
        return ["encode", self.music, "-o", "@store", *options, "--shard-minutes", "0.004", "--workers", "1"]

    def _import(self) -> list[Any]:
        """Make a manifest of a folder."""
        return ["data", "import", "folder", self.music, "-o", "@m.parquet"]

    def _import_hf(self) -> list[Any]:
        """Make a manifest of a data set in the format of the hub, whose audio is written to a folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        home = self.folder / "set"
        home.mkdir(exist_ok=True)
        audio = [{"bytes": (self.music / f"{i}.wav").read_bytes(), "path": f"{i}.wav"} for i in range(3)]
        pq.write_table(pa.table({"audio": audio, "text": ["one", "two", "three"]}), home / "train.parquet")
        return ["data", "import", "hf", home, "--audio", "@audio", "-o", "@m.parquet"]

    def _split(self) -> list[Any]:
        """Assign splits to the tracks of a manifest."""
        return ["data", "split", self.case("import").out / "m.parquet", "-o", "@s.parquet"]

    def _caption(self) -> list[Any]:
        """Caption the tracks of a manifest."""
        return ["data", "caption", self.case("import").out / "m.parquet", "--with", "tags", "-o", "@c.jsonl"]

    def _listen(self) -> list[Any]:
        """Write a listening test."""
        return ["listen", self.music, write_music(self.folder / "other", 3, 0.3), "-o", "@l.html", "--n", "2"]

    def _new_plugin(self) -> list[Any]:
        """Write a package."""
        return ["new-plugin", "splitter", "mine", "--into", "@p"]

    def _evaluate(self) -> list[Any]:
        """Evaluate what a model generates."""
        prompts = self.folder / "prompts.txt"
        prompts.write_text("a tone\na bell\n")
        options = ["--seconds", "0.3", "--n", "2", "--no-adherence"]
        return [
            "evaluate",
            "--model",
            self.model,
            "--prompts",
            prompts,
            "--reference",
            self.music,
            "-o",
            "@e",
            *options,
        ]

    def _compare(self) -> list[Any]:
        """Compare two variants."""
        write_music(self.folder / "more", 10, 1.2)
        train = {"max_train_steps": 2, "warmup_steps": 0, "train_batch_size": 2, "crop_seconds": 0.2}
        settings = {
            "experiment": {
                "codec": self.codec,
                "splitter": {"name": "coarse-first"},
                "conditioner": {"name": "words"},
                "denoiser": DENOISER,
                "data": {"audio": str(self.folder / "more"), "validation_fraction": 0.7},
                "train": train,
                "diffusion": {"num_train_timesteps": 10},
                "sampling": {"scheduler": "ddim", "num_inference_steps": 2},
            },
            "variants": {"coarse": [], "parallel": ["splitter=parallel"]},
            "seeds": [0],
            "checkpoints": 2,
            "prompts": ["a tone"],
        }
        sizes = {"clips": 8, "reference": 8, "probe_training_clips": 8, "seconds": 1, "resamples": 20, "players": 1}
        file = self.folder / "compare.yaml"
        file.write_text(yaml.safe_dump({**settings, "evaluation": sizes}))
        return ["compare", file, "-o", "@c"]

    def _generate(self) -> list[Any]:
        """Generate two files."""
        options = ["--takes", "2", "--seconds", "0.2", "--seed", "3"]
        return ["generate", "a tone", "--model", self.model, "-o", "@a.flac", *options]

    def _edit(self) -> list[Any]:
        """Edit a file."""
        return ["vary", self.music / "0.wav", "--model", self.model, "-o", "@a.wav", "--seed", "1"]

    def _careless(self) -> list[Any]:
        """Write files as no command should, to try the harness itself."""
        return ["careless", "@a.txt"]

    def _rank(self) -> list[Any]:
        """Rank tracks by how like they are to others."""
        for name, count in (("ours", 4), ("theirs", 5)):
            home = self.folder / name
            home.mkdir(exist_ok=True)
            for i in range(count):
                soundfile.write(home / f"{i}.wav", tone(0.5, 150 + 70 * i + 30 * count), RATE)
            if not (self.folder / f"{name}.parquet").exists():
                rows = _rows(home)
                Manifest(home, rows).write(self.folder / f"{name}.parquet")
        options = ["--embedder", "logmel", "--keep", "2", "-o", "@r.parquet"]
        return [
            "data",
            "rank",
            "--like",
            self.folder / "ours.parquet",
            "--of",
            self.folder / "theirs.parquet",
            *options,
        ]

    def damage(self, draw: random.Random) -> list[str]:
        """Damage a file, read everything, and return what is wrong: unless an error names the file."""
        home, read = draw.choice(self._targets())
        files = [file for file in sorted(home.rglob("*")) if file.is_file() and file.name != "README.md"]
        file, damage = draw.choice(files), draw.choice(DAMAGES)
        is_optional = file.name in ("generation_config.json", "run.lock") or home.name in ("features", "embeddings")
        if damage == "missing" and is_optional:
            damage = "flip"  # a model needs neither; what is not in a cache is computed
        whole = file.read_bytes()
        alike = [f.read_bytes() for f in files if f.suffix == file.suffix and f.read_bytes() != whole]
        new = damaged(whole, damage, draw, draw.choice(alike or [b"{}"]))
        os.rename(file, kept := file.with_name(".kept"))  # another name may be linked to it
        try:
            if new is not None:
                file.write_bytes(new)
            said = read(home)
            if file.name == "config.json" and file.read_bytes() == whole:  # of a cache, for readers: written again
                return []
        finally:
            file.unlink(missing_ok=True)
            os.rename(kept, file)
        is_named = any(str(file.parent) in line and file.name in line for line in said)
        if is_named and not any(line.startswith("BUG") for line in said):
            return []
        return [f"{damage} of {file.relative_to(self.folder)}: {said}"]

    def _targets(self) -> list[tuple[Path, Callable[[Path], list[str]]]]:
        """Return folders of each kind, with what reads all that is in one; they are made once."""
        if not self._damaged:
            home = self.folder / "targets"
            shutil.copytree(self.model, home / "model")
            shutil.copytree(self.store, home / "store")
            shutil.copytree(STARTER, home / "shipped")
            (home / "manifest").mkdir()
            shutil.copy(self.case("import").out / "m.parquet", home / "manifest")
            pipeline = codecdiff.load(self.model)
            pipeline.save_pretrained(home / "saved")
            assert pipeline.conditioner is not None
            condition = pipeline.conditioner.encode(["a tone"])
            FeatureCache(home / "features").write("key", condition)
            self._embeddings(home / "embeddings")
            self._damaged = [
                (home / "model", read_model),
                (home / "saved", read_model),
                (home / "shipped", read_model),
                (home / "store", read_store),
                (home / "manifest", read_manifest),
                (home / "features", lambda folder: read_features(folder, [*condition])),
                (home / "embeddings", self._embeddings),
            ]
            said = [line for folder, read in self._damaged for line in read(folder)]
            assert not said, said
        return self._damaged

    def _embeddings(self, folder: Path) -> list[str]:
        """Read embeddings of the music from a cache, and return what is said."""
        said: list[str] = []
        tracks = find_tracks(self.music)

        def read() -> None:
            cache = CachedEmbedder(config.build("embedders", "logmel"), {"name": "logmel"}, folder)
            cache.fill(tracks)
            list(cache.read(tracks))

        _words(read, said)
        return said


def read_features(folder: Path, names: list[str]) -> list[str]:
    """Return what is said of features of prompts: those that are not read are named, and are computed again."""
    cache = FeatureCache(folder)
    return [] if cache.read("key", names) is not None else [f"{file} is passed over" for file in folder.rglob("*")]


def _rows(home: Path) -> list[Any]:
    from codecdiff.data.manifest import ManifestRow

    return [ManifestRow(file.name, file.name, True, 0.5) for file in sorted(home.glob("*.wav"))]


def _words(function: Callable[[], Any], said: list[str]) -> Any:
    """Call a function, and note what it warns of, or a UserError says. Anything else is a bug, and noted as one."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = function()
        said += [str(each.message) for each in warned if str(each.message).endswith("is read.")]
        return result
    except UserError as error:
        said.append(str(error))
    except Exception:
        said.append(f"BUG {traceback.format_exc()}")
    return None


def read_model(model: Path) -> list[str]:
    """Return what is said of a model whose files are all read."""
    said: list[str] = []
    _words(lambda: codecdiff.load(model, allow_local_parts=True), said)
    if (model / "run.lock").is_file():
        _words(lambda: read_run_lock(model / "run.lock"), said)
    homes = sorted(path for path in model.iterdir() if path.is_dir() and path.name != "codec")
    for home in homes:
        _words(lambda home=home: read_logs(model, [home.name]), said)
        for path in stage_folder.generations(home):
            _words(lambda path=path: verify_generation(path), said)
    return said


def read_store(folder: Path) -> list[str]:
    """Return what is said of a store of which everything is read."""
    said: list[str] = []

    def read() -> None:
        store = CodeStore(folder)
        for i in range(len(store)):
            store.codes(i)
            store.continuous(i)
            store.prompt(i)
        store.fitted_state()

    _words(read, said)
    return said


def read_manifest(folder: Path) -> list[str]:
    """Return what is said of a manifest."""
    said: list[str] = []
    _words(lambda: Manifest.read(folder / "m.parquet").tracks(), said)
    return said
