"""Kill commands, fill their disk, damage what they wrote: and see that nothing is lost, stuck, left over or unnoticed.

    python tests/soak/accidents.py kill chain full damage --state FILE    # again: goes on where it stopped
    python tests/soak/accidents.py kill --case encode --every 7            # every seventh operation of one command

A tiny run of each command is forked from a warm process, whose library `disk.c` sees each operation on its output.
What the same command leaves, when it is run again after an accident, must equal what it leaves without one.

kill    SIGKILL at each file operation, half of what it writes written
chain   SIGKILLs at random times, until the command has ended
full    a full disk, and one that fails, from each operation on: a sentence, an error status, nothing broken
damage  a bit flipped, cut, zeroed, appended, swapped or missing in any file: noticed, and the file named
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
VOLATILE = {"seconds", "peak_memory", "inference seconds", "training_seconds"}  # keys of JSON
CACHE = re.compile(r"[0-9a-f]+-\d+\.safetensors")  # of embeddings: named by time and process
DAMAGES = ("flip", "cut", "zero", "append", "swap", "missing")
FAULTS = (errno.ENOSPC, errno.EIO)
SENTENCE = re.compile(r"No space left on device|Input/output error|samples are on the disk|cannot be written")


def start_with_disk(folder: Path) -> None:
    """Start this process again with the library of `disk.c`, unless it has it."""
    if "disk.so" not in os.environ.get("LD_PRELOAD", ""):
        library = folder / "disk.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "disk.c", "-ldl"], check=True)
        threads = {"OMP_NUM_THREADS": "1", "CODECDIFF_ALLOW_LOCAL_PARTS": "1", "SOAK_FOLDER": str(folder)}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **threads, "LD_PRELOAD": str(library)})


class Outcome(NamedTuple):
    """How a run ended: its status, minus the signal that ended it; what it printed; the operations it reached."""

    status: int
    words: str
    operations: list[str]


def careless() -> None:
    """Write a file as no command should: `kill` and `full` have to notice."""
    file = Path(sys.argv[-1])
    if not file.exists():
        file.write_text("x" * 1000)
        file.with_name("also").write_text("y")


class Case:
    """A command that writes below `out`, and what it must leave there."""

    def __init__(self, name: str, folder: Path, *words: str | Path):
        self.name, self.out = name, folder / "runs" / name / "out"
        self.words = [str(self.out / w[1:]) if w[:1] == "@" else w for w in map(str, words)]
        self.operations: list[str] = []
        self.expected: dict[str, Any] = {}
        self.seconds = 0.0

    def run(self, at: int = 0, error: int = 0, kill_after: float | None = None) -> Outcome:
        """Run the command in a forked process, with an accident at an operation or after some seconds."""
        child = self.start(at, error)
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return self.outcome(child)

    def start(self, at: int = 0, error: int = 0, number: int = 0) -> int:
        """Start the command in a forked process, the `number`-th at once, and return the process."""
        self.out.mkdir(parents=True, exist_ok=True)
        said, names = (self.out.parent / f"{name}-{number}" for name in ("said", "names"))
        if child := os.fork():
            return child
        status = 70
        try:
            for file, numbers in ((said, (1, 2)), (names, (199,))):
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for each in numbers:
                    os.dup2(descriptor, each)
            status = self._main(at, error)
            if not self.operations:
                (self.out.parent / "modules").write_text("\n".join(sys.modules))
        finally:
            os._exit(status)

    def outcome(self, child: int, number: int = 0) -> Outcome:
        """Wait for a process that was started, and return how it ended."""
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said, names = (self.out.parent / f"{name}-{number}" for name in ("said", "names"))
        return Outcome(status, said.read_text(errors="replace"), names.read_text(errors="replace").splitlines())

    def _main(self, at: int, error: int) -> int:
        from codecdiff.cli.main import main

        main = careless if self.name == "careless" else main
        sys.argv = ["codecdiff", *self.words]
        ctypes.CDLL(None).disk_arm(os.fsencode(self.out), ctypes.c_long(at), error, 199)
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
            return 70
        return 0

    def prepare(self) -> None:
        """Run the command without an accident, twice, and note what it does and leaves."""
        for is_warm in (False, True):
            shutil.rmtree(self.out, ignore_errors=True)
            start = time.monotonic()
            outcome = self.run()
            self.seconds = time.monotonic() - start
            assert outcome.status == 0, f"{self.name}: {outcome.words}"
            if not is_warm:  # what the command imports is imported once
                self.expected = self.result()
                for name in (self.out.parent / "modules").read_text().splitlines():
                    with suppress(Exception):
                        importlib.import_module(name)
        self.operations = outcome.operations
        assert not self.differences(), f"{self.name} leaves other things each time: {self.differences()}"

    def result(self) -> dict[str, Any]:
        """Return what is in the output, without what differs from run to run: times and memory."""
        files = {file.relative_to(self.out).as_posix(): file for file in self.out.rglob("*") if file.is_file()}
        result = {name: contents(file) for name, file in sorted(files.items())}
        for name in [name for name in result if CACHE.fullmatch(files[name].name)]:
            result.setdefault(f"{Path(name).parent}", {}).update(result.pop(name))
        return result

    def finish(self) -> list[str]:
        """Run the command again, and return what is wrong then."""
        outcome = self.run()
        if outcome.status:
            return [f"is stuck with {outcome.status}: {outcome.words[-1500:]}"]
        return self.differences()

    def differences(self) -> list[str]:
        """Return the names of files that are not what they should be."""
        result = self.result()
        return [name for name in sorted({*self.expected, *result}) if result.get(name) != self.expected.get(name)]

    # Accidents. Each returns what is wrong afterwards.

    def kill(self, number: int, seed: int) -> list[str]:
        """Kill the command at an operation."""
        shutil.rmtree(self.out, ignore_errors=True)
        outcome = self.run(number + 1)
        problems = [] if outcome.status == -signal.SIGKILL else [f"was not killed: {outcome.status} {outcome.words}"]
        return [*problems, *self.finish()]

    def full(self, number: int, seed: int) -> list[str]:
        """Fill up the disk, or have it fail, from an operation on."""
        shutil.rmtree(self.out, ignore_errors=True)
        outcome, problems = self.run(number // 2 + 1, FAULTS[number % 2]), []
        what = f"{os.strerror(FAULTS[number % 2])} at {self.operations[number // 2]}"
        if "Traceback (most" in outcome.words or outcome.status not in (0, 1):
            problems.append(f"{what} ends with {outcome.status}: {outcome.words[-1500:]}")
        elif outcome.status and not SENTENCE.search(outcome.words):
            problems.append(f"{what} is not said: {outcome.words[-1500:]}")
        elif not outcome.status and self.differences():
            problems.append(f"{what} goes unnoticed: {self.differences()}")
        if outcome.status and (left := [name for name in self.result() if ".partial" in name]):
            problems.append(f"{what} leaves {left}")
        return [*problems, *self.finish()]

    def chain(self, number: int, seed: int) -> list[str]:
        """Kill the command at random times, until it has ended."""
        draw = random.Random(f"{seed} {self.name} {number}")
        shutil.rmtree(self.out, ignore_errors=True)
        for _ in range(100):
            outcome = self.run(kill_after=draw.uniform(0, 1.2 * self.seconds))
            if outcome.status == 0:
                return self.differences()
            if outcome.status != -signal.SIGKILL:
                return [f"a chain ends with {outcome.status}: {outcome.words[-1500:]}"]
        return self.finish()


def contents(file: Path) -> Any:
    """Return what a file holds, as it is compared."""
    data = file.read_bytes()
    if CACHE.fullmatch(file.name):
        from safetensors.numpy import load

        return {name: hashlib.sha256(vectors.tobytes()).hexdigest() for name, vectors in load(data).items()}
    try:
        if file.suffix == ".jsonl":
            return [steady(json.loads(line)) for line in data.splitlines()]
        if file.suffix in (".json", ".lock"):
            return steady(json.loads(data))
    except ValueError:
        return "torn"
    if file.suffix in (".html", ".md", ".svg", ".png") or file.name == "seconds.txt":
        return "a report" if data else "empty"
    return hashlib.sha256(data).hexdigest()


def steady(value: Any) -> Any:
    """Return a value of JSON without times, and hashes of files that hold times."""
    if isinstance(value, dict):
        return {key: steady(each) for key, each in value.items() if key not in {*VOLATILE, "files", "sha256"}}
    return [steady(each) for each in value] if isinstance(value, list) else value


KINDS: dict[str, Callable[[Case, int, int], list[str]]] = {
    "kill": Case.kill,
    "chain": Case.chain,
    "full": Case.full,
}


def accidents(options: argparse.Namespace, state: dict[str, Any], cases: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield each accident's name, and what went wrong, for those that are not in the state yet."""
    for kind in options.kinds:
        if kind == "damage":
            yield from _damages(options, state, cases)
            continue
        for name in cases.names(options.case):
            case: Case = cases.case(name)
            count = {"kill": len(case.operations), "full": 2 * len(case.operations), "chain": options.trials}[kind]
            sys.stdout.write(f"{kind} {name}: {len(case.operations)} operations, {case.seconds:.1f} s\n")
            sys.stdout.flush()
            for number in range(0, count, 1 if kind == "chain" else options.every):
                if f"{kind} {name} {number}" not in state["done"]:
                    yield f"{kind} {name} {number}", KINDS[kind](case, number, options.seed)


def _damages(options: argparse.Namespace, state: dict[str, Any], cases: Any) -> Iterator[tuple[str, list[str]]]:
    for number in range(options.trials):
        if f"damage {number}" not in state["done"]:
            yield f"damage {number}", cases.damage(random.Random(f"{options.seed} damage {number}"))


def damaged(whole: bytes, damage: str, draw: random.Random, other: bytes) -> bytes | None:
    """Return a file's contents with a damage, None if the file is gone."""
    position = draw.randrange(len(whole))
    flipped = bytes([whole[position] ^ (1 << draw.randrange(8))])
    return {
        "flip": whole[:position] + flipped + whole[position + 1 :],
        "cut": whole[:position],
        "zero": bytes(len(whole)),
        "append": whole + draw.randbytes(draw.randint(1, 64)),
        "swap": other,
        "missing": None,
    }[damage]


def main() -> None:
    """Cause accidents, print how many of each kind ended well, and exit with status 1 if one did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, "damage"])
    parser.add_argument("--case", default="", help="commands whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="cause accidents at every N-th operation alone")
    parser.add_argument("--trials", type=int, default=1000, help="of chain (of each command) and damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="file that keeps what is done")
    options = parser.parse_args()
    folder = Path(os.environ.get("SOAK_FOLDER") or tempfile.mkdtemp(prefix="soak-"))
    start_with_disk(folder)
    from cases import Cases

    state: dict[str, Any] = {"seed": options.seed, "done": {}}
    if options.state and options.state.exists() and json.loads(options.state.read_text())["seed"] == options.seed:
        state = json.loads(options.state.read_text())
    try:
        for name, problems in accidents(options, state, Cases(folder)):
            state["done"][name] = problems
            if problems:
                sys.stdout.write(f"BAD {name}: {problems}\n")
                sys.stdout.flush()
            if options.state:
                options.state.write_text(json.dumps(state, indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bad = {name: problems for name, problems in state["done"].items() if problems}
    for kind in options.kinds:
        names = [name for name in state["done"] if name.startswith(kind)]
        sys.stdout.write(f"{kind}: {len(names) - sum(n in bad for n in names):,} of {len(names):,} ended well\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
