"""How long the studio takes to answer and to generate, and how it bears many requests, wrong ones and closed tabs.

`python benchmarks/studio.py` starts `codecdiff ui` on a free port of this machine, opens tabs as a browser does, over
HTTP, prints the figures of benchmarks/RESULTS.md, and stops the studio at the end. Wall time needs a quiet machine;
seconds of CPU are those of the studio, all its threads together.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

RATE = 44_100
EVERY_S = 0.5  # between two readings of memory


@dataclass
class Server:
    """A running studio: its address, its process, where its files are, and its resident memory so far in MB."""

    url: str
    process: psutil.Process
    folder: Path
    memory: list[tuple[float, float]] = field(default_factory=list)  # time, MB

    @property
    def cpu_seconds(self) -> float:
        return sum(self.process.cpu_times()[:2])

    @property
    def megabytes(self) -> float:
        return self.process.memory_info().rss / 1e6

    def watch(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            self.memory.append((time.perf_counter(), self.megabytes))
            time.sleep(EVERY_S)

    def files(self, name: str) -> list[Path]:
        """Return the files of the folder `sessions`, which tabs have made, or `uploads`, which are Gradio's."""
        return [file for file in self.folder.glob(f"*/{name}/**/*") if file.is_file()]


class Tab:
    """An open page: a session whose heartbeat tells the studio that it is open."""

    def __init__(self, url: str):
        self.session = secrets.token_hex(8)
        self.http = httpx.Client(base_url=f"{url}gradio_api/", timeout=900)
        self.config = httpx.get(f"{url}config").json()
        self.labels = {part["id"]: part["props"].get("label") for part in self.config["components"]}
        self.values = {part["id"]: part["props"].get("value") for part in self.config["components"]}
        self.heartbeat = self.http.stream("GET", f"heartbeat/{self.session}")
        self.heartbeat.__enter__()

    def event(self, label: str, name: str) -> dict[str, Any]:
        """Return what happens on an event of the first component with a label or the text of a button."""
        ids = [i for i in self.values if label in (self.labels[i], self.values[i])]
        return next(each for each in self.config["dependencies"] if any([i, name] in each["targets"] for i in ids))

    def send(self, event: dict[str, Any], **values: Any) -> dict[str, Any]:
        """Send an event with the values of its inputs, by label, and return the last message about it."""
        words = {label.replace("_", " "): value for label, value in values.items()}
        data = [words.get(self.labels[i] or "", self.values[i]) for i in event["inputs"]]
        body = {"fn_index": event["id"], "data": data, "session_hash": self.session}
        answer = self.http.post("queue/join", json=body)
        if answer.status_code != httpx.codes.OK:
            return {"success": False, "output": {"error": answer.text}}
        with self.http.stream("GET", "queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    return message
                if message.get("msg") == "unexpected_error":
                    return {"success": False, "output": {"error": message["message"]}}
        return {"success": False, "output": {"error": "the stream ended"}}

    def generate(self, seconds: float = 1, steps: int = 2, prompt: str = "a slow waltz on piano") -> dict[str, Any]:
        """Press Generate, and let the page show what came of it."""
        options = {"Prompt": prompt, "Seconds": seconds, "Steps_of_every_stage": steps}
        message = self.send(self.event("Generate", "click"), **options)
        for state in message["output"].get("changed_state_ids", ()):
            self.send(next(d for d in self.config["dependencies"] if [state, "change"] in d["targets"]))
        return message

    def edit(self, name: str, content: bytes) -> dict[str, Any]:
        """Drop a file on the tab Edit."""
        answer = self.http.post("upload", files={"files": (name, content)})
        if answer.status_code != httpx.codes.OK:
            return {"success": False, "output": {"error": answer.text}}
        return self.edit_file(answer.json()[0])

    def edit_file(self, path: str) -> dict[str, Any]:
        file = {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}
        return self.send(self.event("Audio to edit", "change"), Audio_to_edit=file)

    def close(self) -> None:
        self.heartbeat.__exit__(None, None, None)
        self.http.close()


@contextmanager
def studio(model: str) -> Iterator[Server]:
    """Start the studio, print how long it takes to answer, and yield it."""
    with socket.socket() as listener, tempfile.TemporaryDirectory() as folder:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        command = [sys.executable, "-m", "codecdiff", "ui", "--model", model, "--port", str(port)]
        start = time.perf_counter()
        popen = subprocess.Popen(command, env={**os.environ, "TMPDIR": folder})
        server = Server(f"http://127.0.0.1:{port}/", psutil.Process(popen.pid), Path(folder))
        try:
            while not answers(server.url):
                if popen.poll() is not None:
                    sys.exit("The studio did not start.")
                time.sleep(0.05)
            show("from the command to a page that answers", time.perf_counter() - start, server.cpu_seconds)
            threading.Thread(target=server.watch, daemon=True).start()
            yield server
        finally:
            popen.terminate()
            popen.wait(60)
            print(f"files that are left when it has ended: {len([f for f in Path(folder).rglob('*') if f.is_file()])}")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=60).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def show(what: str, wall: float, cpu: float) -> None:
    print(f"{what}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)


def wrong_files() -> dict[str, bytes]:
    """Return files that cannot be edited, by name."""

    def wav(samples: Any, rate: int = RATE) -> bytes:
        soundfile.write(stream := io.BytesIO(), samples, rate, format="WAV", subtype="FLOAT")
        return stream.getvalue()

    sound = wav(np.zeros(RATE, np.float32))
    return {
        "empty.wav": b"",
        "text.mp3": b"no audio" * 1000,
        "broken.wav": b"RIFF of nothing" * 1000,
        "cut.wav": sound[: len(sound) // 2],
        "random.flac": b"fLaC" + np.random.default_rng(0).bytes(10**5),
        "no samples.wav": wav(np.zeros(0, np.float32)),
        "one sample.wav": wav(np.zeros(1, np.float32)),
        "not a number.wav": wav(np.full(RATE, np.nan, np.float32)),
        "infinite.wav": wav(np.full(RATE, np.inf, np.float32)),
        "64 channels.wav": wav(np.zeros((RATE, 64), np.float32)),
        "too long.wav": wav(np.zeros(600 * 8000, np.float32), 8000),
        "110 MB.wav": wav(np.zeros(27_500_000, np.float32)),
        "<img src=x onerror=alert(1)>.wav": b"no audio",
    }


def try_wrong(server: Server) -> None:
    """Print what is said to files that cannot be edited and to requests over the limits."""
    tab = Tab(server.url)
    for name, content in wrong_files().items():
        print(f"  {name}: {said(tab.edit(name, content))}", flush=True)
    print(f"  a file of this machine: {said(tab.edit_file('/etc/hostname'))}")
    print(f"  10,000 s: {said(tab.generate(seconds=10_000))}")
    print(f"  1,000,000 steps: {said(tab.generate(steps=10**6))}")
    print(f"  1,000,000 letters: {said(tab.generate(prompt='x' * 10**6))}")
    print(f"  then a usual request: {said(tab.generate())}", flush=True)
    tab.close()


def said(message: dict[str, Any]) -> str:
    return "accepted" if message["success"] else str(message["output"].get("error"))[:110]


def at_once(server: Server, count: int) -> list[float]:
    """Press Generate in so many tabs at once; return after how many seconds each had its audio, and close them."""
    tabs, start = [Tab(server.url) for _ in range(count)], time.perf_counter()

    def press(tab: Tab) -> float:
        message = tab.generate()
        seconds = time.perf_counter() - start
        tab.close()
        return seconds if message["success"] else sys.exit(f"A request failed: {message['output']}")

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(press, tabs))


def close_while_it_generates(server: Server, count: int) -> float:
    """Ask for 30 s of audio in several tabs and close them; return the seconds until another is served."""
    for _ in range(count):
        tab = Tab(server.url)
        event = tab.event("Generate", "click")
        data = [30 if tab.labels[i] == "Seconds" else tab.values[i] for i in event["inputs"]]
        tab.http.post("queue/join", json={"fn_index": event["id"], "data": data, "session_hash": tab.session})
        time.sleep(0.3)
        tab.close()
    start = time.perf_counter()
    tab = Tab(server.url)
    tab.generate()
    tab.close()
    return time.perf_counter() - start


def show_memory(server: Server, since: float) -> None:
    """Print the mean of memory in each quarter of the time since a moment."""
    readings = [megabytes for moment, megabytes in server.memory if moment >= since]
    size = max(1, len(readings) // 4)
    quarters = [mean(readings[i * size : (i + 1) * size]) for i in range(4)]
    print(f"memory in quarters of that time: {', '.join(f'{each:,.0f}' for each in quarters)} MB", flush=True)


def show_rounds(server: Server, rounds: int, count: int) -> None:
    for i in range(rounds):
        cpu, times = server.cpu_seconds, at_once(server, count)
        print(
            f"  round {i + 1}: the first is served after {times[0]:.1f} s, the last after {times[-1]:.1f} s, "
            f"{server.cpu_seconds - cpu:.0f} s of CPU; {server.megabytes:,.0f} MB",
            flush=True,
        )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--requests", type=int, default=50, help="at once; 0: only the times of one")
    parser.add_argument("--rounds", type=int, default=6, help="of requests, over which memory is compared")
    arguments = parser.parse_args(words)
    with studio(arguments.model) as server:
        tab = Tab(server.url)
        for name in ("first", "second"):
            start, cpu = time.perf_counter(), server.cpu_seconds
            tab.generate(seconds=5, steps=0)  # the model's own
            show(f"from the {name} click to 5 s of audio", time.perf_counter() - start, server.cpu_seconds - cpu)
        tab.close()
        if arguments.requests:
            print("wrong files and requests:")
            try_wrong(server)
            print(f"{arguments.requests} tabs press Generate at once, for 1 s in 2 steps, and are closed:")
            at_once(server, arguments.requests)  # memory is what it needs from here on
            since = time.perf_counter()
            show_rounds(server, arguments.rounds, arguments.requests)
            print(
                f"10 tabs are closed while they generate 30 s: {close_while_it_generates(server, 10):.1f} s to the next"
            )
            show_memory(server, since)
            time.sleep(2)
            left = [len(server.files(name)) for name in ("sessions", "uploads")]
            print(f"files of closed tabs: {left[0]}; copies and uploads, which are deleted after an hour: {left[1]}")


if __name__ == "__main__":
    main()
