"""How long the commands take that people wait for with their hands on the keys: those that only list and help.

python benchmarks/startup.py [--runs 10]

Beside each stand Python that does nothing and a program of one typer command, which is what ours is made of.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
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


def seconds(code: str, *arguments: str) -> float:
    """Run some Python in a process of its own that keeps bytecode, as an installed package does; give its seconds."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    for program in PROGRAMS.values():
        seconds(*program)  # writes the bytecode
    # All in turn, so that a busy machine slows them alike
    rounds = [{name: seconds(*program) for name, program in PROGRAMS.items()} for _ in range(runs)]
    for name in PROGRAMS:
        times = sorted(each[name] for each in rounds)
        print(f"{name:25} {times[0]:.2f} to {times[-1]:.2f} s, median {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
