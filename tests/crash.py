"""A harness that kills, fills the disk of, and damages a training run: at every file operation, or at random for long.

A tiny run of the recipe is forked from a warm process. Python's audit events say when it touches its output folder, so
that operation k can be made its last, or fail. The same command is run again afterwards, and what it leaves must equal
what a run without any accident leaves, to the byte of every tensor.

`python tests/crash.py --trials 1000 --seed 0 --progress FILE` draws accidents, and resumes from the file.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from codecdiff.recipes import discodiff  # pyright: ignore[reportMissingImports]  # ../recipes, as installed
from small import UNET, write_music

import codecdiff
from codecdiff import config
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.metadata import find_tracks
from codecdiff.errors import UserError
from codecdiff.pipeline import checkpoint
from codecdiff.pipeline.run_lock import read_run_lock
from codecdiff.testing.tiny import write_tiny
from codecdiff.training import read_logs
from codecdiff.training.state import verify_generation

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.fsync"}
VOLATILE = {"seconds", "peak_memory"}  # of a row of the log
USER_ERROR, BUG = 3, 4  # exit statuses of a run
DAMAGES = ("flip", "cut", "zero", "append", "swap", "missing")

_handler: Callable[[str], None] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _handler is None or event not in EVENTS or (event == "open" and not _is_write(arguments)):
        return
    _handler(f"{event} {arguments[0]}")


def _is_write(arguments: tuple[Any, ...]) -> bool:
    return isinstance(arguments[0], str | os.PathLike) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


class Accident(NamedTuple):
    """What happens at operation `at`, counted from 1: SIGKILL, or an error of the disk that stays from then on."""

    at: int
    error: int = 0


class Case:
    """A training run in a folder of its own, with the result that it must have."""

    def __init__(self, folder: Path, *overrides: str):
        self.folder, self.out = folder, folder / "out"
        self.settings, self.overrides = folder / "settings.yaml", [*overrides, f"output={self.out}"]
        if not self.settings.exists():
            self._prepare()
        discodiff.training.call_run_end_hooks = lambda folder: None  # other packages' reports
        torch.set_num_threads(1)
        self.names: list[str] = []

    def _prepare(self) -> None:
        codec = {"name": "dac", "model": str(write_tiny("dac", self.folder / "dac"))}
        encoded = find_tracks(write_music(self.folder / "music", 3, 0.3))
        encode_tracks(encoded, self.folder / "store", config.build("codecs", codec), codec)
        train = {"max_train_steps": 4, "warmup_steps": 0, "train_batch_size": 2, "crop_seconds": 0.05}
        settings = {
            "codec": codec,
            "splitter": {"name": "coarse-first"},
            "conditioner": {"name": "words"},
            "denoiser": {**UNET, "width": 8, "multipliers": [1]},
            "data": {"store": str(self.folder / "store"), "validation_fraction": 0.4},
            "train": {**train, "checkpointing_steps": 2, "validation_steps": 2},
            "diffusion": {"num_train_timesteps": 10},
            "sampling": {"scheduler": "ddim", "num_inference_steps": 2},
            "report_to": [],
            "prompts": ["a tone"],
            "seconds": 0.05,
        }
        settings["denoiser"]["layers"] = ["text"]
        self.settings.write_text(yaml.safe_dump(settings))

    def run(self, accident: Accident | None = None) -> tuple[int, str]:
        """Run the recipe in a forked process; return its exit status, minus the signal that ended it, and its words."""
        read, write = os.pipe()
        if not (child := os.fork()):
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                os._exit(self._train(accident, pipe))
        os.close(write)
        with os.fdopen(read) as pipe:
            words = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), words

    def _train(self, accident: Accident | None, pipe: io.TextIOBase) -> int:
        global _handler
        names: list[str] = []

        def handle(name: str) -> None:
            if str(self.out) not in name:
                return
            names.append(name)
            if accident and len(names) >= accident.at:
                if not accident.error:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not name.startswith("os.r"):  # a full disk still deletes and renames
                    raise OSError(accident.error, os.strerror(accident.error))

        fsync, paths, opened = os.fsync, dict[int, str](), os.open

        def open_named(path: Any, *arguments: Any, **options: Any) -> int:
            descriptor = opened(path, *arguments, **options)
            paths[descriptor] = str(path)
            return descriptor

        def flush(number: Any) -> None:
            _audit("os.fsync", (paths.get(number),))
            fsync(number)

        os.open, os.fsync = open_named, flush
        _handler, status = handle, 0
        try:
            with redirect_stderr(io.StringIO()) as words:
                discodiff.console.file = words
                discodiff.train(self.settings, self.overrides)
            pipe.write("\n".join(names))
        except UserError as error:
            pipe.write(str(error))
            status = USER_ERROR
        except BaseException:
            pipe.write(traceback.format_exc())
            status = BUG
        _handler = None
        pipe.flush()
        return status

    def reference(self) -> dict[str, Any]:
        """Run without an accident, keep the names of its operations, and return what it leaves."""
        shutil.rmtree(self.out, ignore_errors=True)
        status, words = self.run()
        assert status == 0, words
        self.names = words.splitlines()
        return self.result()

    def result(self) -> dict[str, Any]:
        """Return what is in the output folder, without what differs from run to run: times and memory."""
        files = {file.relative_to(self.out).as_posix(): file for file in self.out.rglob("*") if file.is_file()}
        return {name: _contents(file) for name, file in sorted(files.items())}


def _contents(file: Path) -> Any:
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
    if file.name == "stage.json":
        spec = json.loads(file.read_text())
        return {key: value for key, value in spec.items() if key not in ("files", "sha256")}
    return hashlib.sha256(file.read_bytes()).hexdigest()


def kill_at(case: Case, expected: dict[str, Any], at: int) -> list[str]:
    """Kill a new run at an operation, run it again, and return what is wrong then."""
    shutil.rmtree(case.out, ignore_errors=True)
    status, words = case.run(Accident(at))
    problems = [] if status == -signal.SIGKILL else [f"was not killed at {at}: {status} {words}"]
    return [*problems, *_finish(case, expected)]


def fail_at(case: Case, expected: dict[str, Any], at: int, error: int) -> list[str]:
    """Have the disk of a new run fail from an operation on, run it again, and return what is wrong then."""
    shutil.rmtree(case.out, ignore_errors=True)
    status, words = case.run(Accident(at, error))
    problems = []
    if status not in (0, USER_ERROR) or (status and os.strerror(error) not in words):
        problems = [f"{os.strerror(error)} at {at} ends with {status}: {words[-2000:]}"]
    if status and (leftover := [name for name in case.result() if ".partial" in name]):
        problems.append(f"leaves {leftover}")
    return [*problems, *_finish(case, expected)]


def kill_in_a_chain(case: Case, expected: dict[str, Any], draw: random.Random) -> list[str]:
    """Kill a run again and again at operations that are drawn, until it ends, and return what is wrong then."""
    shutil.rmtree(case.out, ignore_errors=True)
    for _ in range(100):
        status, words = case.run(Accident(draw.randint(1, len(case.names))))
        if status == 0:
            return _difference(case, expected)
        if status != -signal.SIGKILL:
            return [f"a chain ends with {status}: {words[-2000:]}"]
    return _finish(case, expected)


def _finish(case: Case, expected: dict[str, Any]) -> list[str]:
    status, words = case.run()
    return _difference(case, expected) if status == 0 else [f"is stuck: {status} {words[-2000:]}"]


def _difference(case: Case, expected: dict[str, Any]) -> list[str]:
    result = case.result()
    return [name for name in {*expected, *result} if result.get(name) != expected.get(name)]


def damaged(contents: bytes, damage: str, draw: random.Random, other: bytes) -> bytes | None:
    """Return a file's contents with a damage, None if the file is gone."""
    position = draw.randrange(len(contents))
    flipped = bytes([*contents[position : position + 1]])[0] ^ (1 << draw.randrange(8))
    return {
        "flip": contents[:position] + bytes([flipped]) + contents[position + 1 :],
        "cut": contents[:position],
        "zero": bytes(len(contents)),
        "append": contents + draw.randbytes(draw.randint(1, 64)),
        "swap": other,
        "missing": None,
    }[damage]


def damage_one(out: Path, draw: random.Random) -> list[str]:
    """Damage one file of a finished run, read all of it, and return what is wrong: unless an error names the file."""
    model, damage = out / "model", draw.choice(DAMAGES)
    files = [file for file in sorted(model.rglob("*")) if file.is_file() and file.name != "README.md"]
    file = draw.choice(files)
    if damage == "missing" and file.name in ("stage.json", "log.jsonl", "generation_config.json", "run.lock"):
        return []  # then the stage, the log or the lock is not there
    whole = file.read_bytes()
    alike = [f.read_bytes() for f in files if f.suffix == file.suffix and f.read_bytes() != whole]
    new = damaged(whole, damage, draw, draw.choice(alike or [b"{}"]))
    os.rename(file, kept := file.with_name("kept"))
    try:
        if new is not None:
            file.write_bytes(new)
        said = _read_everything(model)
    finally:
        file.unlink(missing_ok=True)
        os.rename(kept, file)
    is_named = any(str(file.parent) in line and file.name in line for line in said)
    return [] if is_named else [f"{damage} of {file}: {said}"]


def _read_everything(model: Path) -> list[str]:
    """Return what is said of a model whose files are all read. Anything but a UserError is a bug, and raised."""
    said: list[str] = []

    def attempt(function: Callable[[], Any]) -> Any:
        try:
            return function()
        except UserError as error:
            said.append(str(error))

    attempt(lambda: codecdiff.load(model, allow_local_parts=True))
    attempt(lambda: read_run_lock(model / "run.lock"))
    for home in sorted(path for path in model.iterdir() if path.is_dir() and path.name != "codec"):
        attempt(lambda home=home: read_logs(model, [home.name]))
        for path in checkpoint.generations(home):
            attempt(lambda path=path: verify_generation(path))
    return said


def trials(case: Case, expected: dict[str, Any], seed: int, start: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the kind of each accident, and what went wrong, from number `start` on."""
    for number in range(start, sys.maxsize):
        draw = random.Random(f"{seed} {number}")
        kind = draw.choice(("kill", "fault", "chain", "damage", "damage", "damage", "damage"))
        at = draw.randint(1, len(case.names))
        if kind == "kill":
            yield kind, kill_at(case, expected, at)
        elif kind == "fault":
            yield kind, fail_at(case, expected, at, draw.choice((errno.ENOSPC, errno.EIO)))
        elif kind == "chain":
            yield kind, kill_in_a_chain(case, expected, draw)
        else:
            yield kind, damage_one(case.out, draw)


sys.addaudithook(_audit)


def main() -> None:
    """Draw accidents, print how many of each kind went well, and exit with status 1 if one did not."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", type=Path, default=Path("runs/crashes.json"), help="where to resume from")
    options = parser.parse_args()
    options.progress.parent.mkdir(parents=True, exist_ok=True)
    state = {"seed": options.seed, "done": 0, "good": {}, "bad": []}
    if options.progress.exists() and json.loads(options.progress.read_text())["seed"] == options.seed:
        state = json.loads(options.progress.read_text())
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder))
        expected, good = case.reference(), Counter(state["good"])
        for kind, problems in trials(case, expected, options.seed, state["done"]):
            if state["done"] >= options.trials:
                break
            good[kind] += not problems
            state["bad"] += [[state["done"], kind, *problems]] if problems else []
            state |= {"done": state["done"] + 1, "good": dict(good)}
            options.progress.write_text(json.dumps(state, indent=1))
    sys.stdout.write(
        f"{sum(good.values())} of {state['done']} accidents ended well: {dict(good)}; {len(case.names)} operations\n"
    )
    sys.exit(bool(state["bad"]))


if __name__ == "__main__":
    main()
