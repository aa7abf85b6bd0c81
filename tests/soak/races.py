"""Run a command twice at once, and load a model while it is saved: nobody loses, and nobody reads half of anything.

    python tests/soak/races.py --trials 100 --state FILE    # again: goes on where it stopped

The second of two processes starts at a random time after the first. Each ends well, or says who is at work. Afterwards
the same command leaves what it leaves alone. While a model is trained, it is loaded again and again: every load is of
one step, its weights, log and run.lock included, or the model is not there yet.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from accidents import Case, start_with_disk

COMMANDS = ("train-two", "train-one", "encode", "import", "import-hf", "compare", "evaluate", "rank")
AT_WORK = "is being written by another run"


def race(case: Case, draw: random.Random) -> list[str]:
    """Run a command twice at once, then once more, and return what is wrong."""
    shutil.rmtree(case.out, ignore_errors=True)
    children = [case.start()]
    time.sleep(draw.uniform(0, 0.8 * case.seconds))
    children.append(case.start(number=1))
    outcomes = [case.outcome(child, number) for number, child in enumerate(children)]
    problems = [
        f"ends with {outcome.status}: {outcome.words[-1500:]}"
        for outcome in outcomes
        if outcome.status and not (outcome.status == 1 and AT_WORK in outcome.words)
    ]
    if all(outcome.status for outcome in outcomes):
        problems.append(f"nobody ends well: {[outcome.words[-500:] for outcome in outcomes]}")
    return [*problems, *case.finish()]


def load_while_saving(case: Case, draw: random.Random) -> list[str]:
    """Load a model again and again while it is trained, and return what is wrong."""
    import codecdiff
    from codecdiff.errors import MissingFile, UserError
    from codecdiff.pipeline.run_lock import read_run_lock
    from codecdiff.training import read_logs

    shutil.rmtree(case.out, ignore_errors=True)
    child, problems, loads, model = case.start(), [], 0, case.out / "model"
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        try:
            pipeline = codecdiff.load(model, allow_local_parts=True)
            logs = read_logs(model, pipeline.stage_names)
            if (model / "run.lock").exists():
                read_run_lock(model / "run.lock")
            loads += bool(pipeline.stages) and bool(logs)
        except MissingFile as error:
            if (model / "codecdiff.json").exists() and "codecdiff.json" not in str(error):
                problems.append(f"load {loads}: {error}")
        except UserError as error:
            if model.exists() and "No model " not in str(error):
                problems.append(f"load {loads}: {error}")
        time.sleep(draw.uniform(0, 0.02))
    outcome = case.outcome(child)
    if outcome.status:
        problems.append(f"training ends with {outcome.status}: {outcome.words[-1500:]}")
    return [*problems, *case.differences()]


def main() -> None:
    """Race, print how many trials of each kind ended well, and exit with status 1 if one did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="of each command, and of loading while saving")
    parser.add_argument("--case", default="", help="commands whose name contains this, or load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="file that keeps what is done")
    options = parser.parse_args()
    folder = Path(os.environ.get("SOAK_FOLDER") or tempfile.mkdtemp(prefix="soak-"))
    start_with_disk(folder)
    from cases import Cases

    from codecdiff.files import atomic_write_text

    state: dict[str, Any] = json.loads(options.state.read_text()) if options.state and options.state.exists() else {}
    cases = Cases(folder)
    try:
        for number in range(options.trials):
            for name in (*COMMANDS, "load"):
                key = f"{name} {options.seed} {number}"
                if options.case not in name or key in state:
                    continue
                draw = random.Random(key)
                trial = load_while_saving if name == "load" else race
                state[key] = trial(cases.case("train-two" if name == "load" else name), draw)
                if state[key]:
                    sys.stdout.write(f"BAD {key}: {state[key]}\n")
                    sys.stdout.flush()
                if options.state:
                    atomic_write_text(options.state, json.dumps(state, indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bad = [key for key, problems in state.items() if problems]
    sys.stdout.write(f"{len(state) - len(bad):,} of {len(state):,} races ended well\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
