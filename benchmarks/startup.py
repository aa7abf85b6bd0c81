"""How long the commands take that people wait for with their hands on the keys: those that only list and help.

python benchmarks/startup.py [--runs 10] [--load] [--other PYTHON]

Beside each stand Python that does nothing and a program of one typer command, which is what ours is made of. With
`--load`, what `codecdiff generate` does before it generates, and the command with little to generate, beside importing
torch; `--other` is the interpreter of another version's environment, measured in turn with this one. Wall-clock
seconds, and seconds of the processor, which other jobs on the machine change little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

NOTHING = "pass"
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
OURS = "from codecdiff.cli.main import main; main()"
PROGRAMS = {
    "python": (NOTHING,),
    "a program of one command": (ONE_COMMAND,),
    **{f"codecdiff {argument}": (OURS, argument) for argument in ("--version", "--help", "plugins")},
}
LOADS = {
    "import torch": ("import torch",),
    "import and load the starter": ("import codecdiff.cli.generate; codecdiff.load('starter', device='cpu')",),
    "codecdiff generate, one second in two steps": (
        OURS,
        *["generate", "tone", "--seconds", "1", "--num-inference-steps", "2", "--force", "-o"],
        os.path.join(tempfile.gettempdir(), "codecdiff-startup.wav"),
    ),
}


def processor() -> float:
    """Return the seconds that finished child processes have kept processors busy."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds(python: str, code: str, *arguments: str) -> tuple[float, float]:
    """Run Python in a process of its own that keeps bytecode; return its seconds, and those of the processor."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1"}
    began, before = time.perf_counter(), processor()
    subprocess.run([python, "-P", "-c", code, *arguments], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began, processor() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--load", action="store_true", help="measure what generating does first")
    parser.add_argument("--other", metavar="PYTHON", help="interpreter of another environment")
    options = parser.parse_args()
    pythons = {"": sys.executable, **({" (other)": options.other} if options.other else {})}
    programs = LOADS if options.load else PROGRAMS
    each = {name + which: (python, *code) for name, code in programs.items() for which, python in pythons.items()}
    for program in each.values():
        seconds(*program)  # writes the bytecode
    # All in turn, so that a busy machine slows them alike
    rounds = [{name: seconds(*program) for name, program in each.items()} for _ in range(options.runs)]
    for name in each:
        walls, busy = (sorted(times[name][kind] for times in rounds) for kind in (0, 1))
        spread = f"{walls[0]:.2f} to {walls[-1]:.2f} s, median {statistics.median(walls):.2f} s"
        print(
            f"{name:52} {spread}; processor {busy[0]:.2f} to {busy[-1]:.2f} s, median {statistics.median(busy):.2f} s"
        )


if __name__ == "__main__":
    main()
