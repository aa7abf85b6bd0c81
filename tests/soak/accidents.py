"""Kill commands, fill their disk, damage what they wrote: and see that nothing is lost, stuck, left over or unnoticed.

    python tests/soak/accidents.py kill chain full damage --state FILE    # again: goes on where it stopped
    python tests/soak/accidents.py kill --case encode --every 7            # every seventh operation of one command

A tiny run of each command is forked from a warm process, whose library `disk.c` sees each operation on its output.
What the same command leaves, when it is run again after an accident, must equal what it leaves without one. It is run
again once from states of the disk that are equal except for times and processes.

kill    SIGKILL at each file operation, half of what it writes written: one run stops at each, and the disk is copied
chain   SIGKILLs at random times, until the command has ended
full    a full disk, and one that fails, from each operation on: a sentence, an error status, nothing broken
damage  a bit flipped, cut, zeroed, appended, swapped or missing in any file: noticed, and the file named
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import hashlib
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
LEFTOVER = re.compile(r"\.\w+-\d+-\w+(?=\.partial)")  # named by process and at random
MEMORY = Path("/dev/shm")  # a disk that flushes at once
NAMES = 199  # descriptor to which `disk.c` writes the names of operations
REPORTS = {".html": b"</html>", ".svg": b"</svg>", ".png": b"IEND\xaeB`\x82", ".md": b""}  # and how they end
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


class Snapshot(NamedTuple):
    """What a folder holds: permissions, time and contents of each file, None for folders, by name."""

    files: dict[str, tuple[int, int, bytes | None]]

    @classmethod
    def of(cls, folder: Path, seen: dict[bytes, bytes]) -> Snapshot:
        """Copy a folder; equal contents are held once."""
        files = {}
        for path in sorted(folder.rglob("*")):
            status, data = path.stat(), None if path.is_dir() else path.read_bytes()
            kept = None if data is None else seen.setdefault(data, data)
            files[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, kept)
        return cls(files)

    def restore(self, folder: Path) -> None:
        """Make a folder what it was."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, (_, _, data) in self.files.items():
            if data is None:
                (folder / name).mkdir()
            else:
                (folder / name).write_bytes(data)
        for name, (mode, time_ns, _) in reversed(self.files.items()):
            (folder / name).chmod(mode)
            os.utime(folder / name, ns=(time_ns, time_ns))


class Outcome(NamedTuple):
    """How a run ended: its status, minus the signal that ended it; what it printed; the operations it reached."""

    status: int
    words: str
    operations: list[str]


def _write_to(file: Path, *numbers: int) -> None:
    """Have these descriptors write to a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in numbers:
        os.dup2(descriptor, number)
    os.close(descriptor)


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
        self.words = [re.sub("(^|=)@", rf"\1{self.out}/", str(word)) for word in words]
        self.operations: list[str] = []
        self.expected: dict[str, Any] = {}
        self.seconds = 0.0
        self._snapshots: list[Snapshot] = []
        self._contents: dict[bytes, bytes] = {}  # of their files
        self._problems: dict[Any, list[str]] = {}  # after the command was run again, by what the disk held before

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
        if child := os.fork():
            return child
        status = 70
        try:
            _write_to(self._file("said", number), 1, 2)
            _write_to(self._file("names", number), NAMES)
            status = self._main(at, error, NAMES)
        finally:
            os._exit(status)

    def _file(self, name: str, number: int = 0) -> Path:
        return self.out.parent / f"{name}-{number}"

    def outcome(self, child: int, number: int = 0) -> Outcome:
        """Wait for a process that was started, and return how it ended."""
        while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
            self._snapshots.append(Snapshot.of(self.out, self._contents))
            os.kill(child, signal.SIGCONT)
        said, names = (self._file(name, number) for name in ("said", "names"))
        status = os.waitstatus_to_exitcode(status)
        return Outcome(status, said.read_text(errors="replace"), names.read_text(errors="replace").splitlines())

    def _main(self, at: int, error: int, names: int) -> int:
        from codecdiff.cli.main import main

        main = careless if self.name == "careless" else main
        sys.argv = ["codecdiff", *self.words]
        ctypes.CDLL(None).disk_arm(os.fsencode(self.out), ctypes.c_long(at), error, names)
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
            return 70
        return 0

    def prepare(self) -> None:
        """Run the command without an accident, twice, and note what it does and leaves.

        First in this process: what it imports, compiles and caches is then there in each that is forked.
        """
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        said, streams = self._file("said"), [os.dup(number) for number in (1, 2)]
        _write_to(said, 1, 2)
        status = self._main(0, 0, -1)
        for number, stream in zip((1, 2), streams, strict=True):
            os.dup2(stream, number)
        assert status == 0, f"{self.name}: {said.read_text()}"
        self.expected = self.result()
        gc.collect()
        gc.freeze()  # a collection in a forked process would copy all memory
        shutil.rmtree(self.out)
        start = time.monotonic()
        outcome = self.run()
        self.seconds, self.operations = time.monotonic() - start, outcome.operations
        assert not (wrong := self._stuck(outcome) or self.differences()), f"{self.name} is not the same again: {wrong}"

    def result(self) -> dict[str, Any]:
        """Return what is in the output, without what differs from run to run: times and memory."""
        files = {file.relative_to(self.out).as_posix(): file for file in self.out.rglob("*") if file.is_file()}
        result = {name: contents(file) for name, file in sorted(files.items())}
        for name in [name for name in result if CACHE.fullmatch(files[name].name)]:
            result.setdefault(f"{Path(name).parent}", {}).update(result.pop(name))
        return result

    def finish(self) -> list[str]:
        """Run the command again, unless it was from such a state, and return what is wrong then."""
        files = (file for file in self.out.rglob("*"))
        names = {file: LEFTOVER.sub("", file.relative_to(self.out).as_posix()) for file in files}
        state = sorted((name, "" if file.is_dir() else repr(contents(file))) for file, name in names.items())
        return self._once(tuple(state), lambda: self._stuck(self.run()) or self.differences())

    def _once(self, key: Any, trial: Callable[[], list[str]]) -> list[str]:
        if key not in self._problems:
            self._problems[key] = trial()
        return self._problems[key]

    def _stuck(self, outcome: Outcome) -> list[str]:
        return [f"is stuck with {outcome.status}: {outcome.words[-1500:]}"] if outcome.status else []

    def differences(self) -> list[str]:
        """Return the names of files that are not what they should be."""
        result = self.result()
        return [name for name in sorted({*self.expected, *result}) if result.get(name) != self.expected.get(name)]

    # Accidents. Each returns what is wrong afterwards.

    def kill(self, number: int, seed: int) -> list[str]:
        """Run the command again from the disk that it leaves if it is killed at an operation."""
        if not self._snapshots:
            shutil.rmtree(self.out, ignore_errors=True)
            self.run(-1)
        assert len(self._snapshots) == len(self.operations), f"{self.name} does not do the same each time"
        self._snapshots[number].restore(self.out)
        return self.finish()

    def full(self, number: int, seed: int) -> list[str]:
        """Fill up the disk, or have it fail, from an operation on."""
        first, fault = number // 2, FAULTS[number % 2]
        fails = next((i for i, name in enumerate(self.operations) if i >= first and name[0] == "+"), -1)
        return self._once(
            (fails, fault, "write" in self.operations[fails] and fails == first), lambda: self._fill(first, fault)
        )

    def _fill(self, number: int, fault: int) -> list[str]:
        shutil.rmtree(self.out, ignore_errors=True)
        outcome, problems = self.run(number + 1, fault), []
        what = f"{os.strerror(fault)} at {self.operations[number].lstrip('+')}"
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
    if file.suffix in REPORTS:
        return "a report" if data and data.rstrip().endswith(REPORTS[file.suffix]) else "torn"
    if file.name == "seconds.txt":
        return sorted(set(re.findall(rb"\S+\.flac$", data, re.M)))  # each clip has a time
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
    folder = Path(
        os.environ.get("SOAK_FOLDER") or tempfile.mkdtemp(prefix="soak-", dir=MEMORY if MEMORY.is_dir() else None)
    )
    start_with_disk(folder)
    from cases import Cases

    from codecdiff.files import atomic_write_text

    state: dict[str, Any] = {"seed": options.seed, "done": {}}
    if options.state and options.state.exists() and json.loads(options.state.read_text())["seed"] == options.seed:
        state = json.loads(options.state.read_text())
    try:
        saved = time.monotonic()
        for name, problems in accidents(options, state, Cases(folder)):
            state["done"][name] = problems
            if problems:
                sys.stdout.write(f"BAD {name}: {problems}\n")
                sys.stdout.flush()
            if options.state and time.monotonic() > saved + 2:
                atomic_write_text(options.state, json.dumps(state, indent=1))
                saved = time.monotonic()
    finally:
        if options.state:
            atomic_write_text(options.state, json.dumps(state, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
    bad = {name: problems for name, problems in state["done"].items() if problems}
    for kind in options.kinds:
        names = [name for name in state["done"] if name.startswith(kind)]
        sys.stdout.write(f"{kind}: {len(names) - sum(n in bad for n in names):,} of {len(names):,} ended well\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
