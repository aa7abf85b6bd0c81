"""How long the studio takes to answer and to generate, and how it bears many requests, too long ones and closed tabs.

`python benchmarks/studio.py` starts `codecdiff ui` on a free port of this machine, and stops it at the end.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
from gradio_client import Client

SHORT: dict[str, Any] = {"prompt": "a tune", "seconds": 1, "seed": 1, "options": {"num_inference_steps": 2}}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def studio(model: str) -> Iterator[tuple[str, psutil.Process]]:
    """Start the studio, print how long it takes to answer, and yield its address and its process."""
    url, start = f"http://127.0.0.1:{(port := free_port())}/", time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "codecdiff", "ui", "--model", model, "--port", str(port)])
    try:
        while True:
            try:
                urllib.request.urlopen(url).read()
                break
            except urllib.error.URLError:
                if process.poll() is not None:
                    sys.exit("The studio did not start.")
                time.sleep(0.05)
        print(f"from the command to a page that answers: {time.perf_counter() - start:.1f} s")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def memory(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def requests_at_once(url: str, count: int) -> list[float]:
    """Send requests at once; return how many seconds after the first each was answered."""
    client, start = Client(url, verbose=False), time.perf_counter()

    def send(_: int) -> float:
        client.predict(**SHORT, api_name="/generate")
        return time.perf_counter() - start

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(send, range(count)))


def refused(url: str) -> list[str]:
    """Return what is said to requests over the limits."""
    client, sentences = Client(url, verbose=False), []
    options: dict[str, Any] = {"num_inference_steps": 10**6}
    for wrong in ({"seconds": 1e6}, {"num_waveforms": 10**6}, {"options": options}, {"prompt": "x" * 10**6}):
        try:
            client.predict(**{**SHORT, **wrong}, api_name="/generate")
            sentences.append("accepted")
        except Exception as error:  # of the client, with the sentence of the studio
            sentences.append(str(error)[:100])
    return sentences


def closed_tabs(url: str, count: int) -> float:
    """Send a long request from each of several clients and close them; return the seconds until another is served."""
    for _ in range(count):
        client = Client(url, verbose=False)
        job = client.submit(prompt="a tune", seconds=30, api_name="/generate")
        time.sleep(0.2)
        job.cancel()
        client.close()
    start = time.perf_counter()
    Client(url, verbose=False).predict(**SHORT, api_name="/generate")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="of requests, between which memory is compared")
    arguments = parser.parse_args()
    with studio(arguments.model) as (url, process):
        client = Client(url, verbose=False)
        for name in ("first", "second"):
            start = time.perf_counter()
            client.predict(prompt="a slow waltz on piano", seconds=5, seed=1, api_name="/generate")
            print(f"from a {name} request to 5 s of audio: {time.perf_counter() - start:.1f} s")
        for i in range(arguments.rounds):
            before, times = memory(process), requests_at_once(url, arguments.requests)
            print(
                f"round {i + 1}: {len(times)} requests at once, the last answered after {times[-1]:.1f} s; "
                f"memory {before:,.0f} -> {memory(process):,.0f} MB"
            )
        print("over the limits:", *refused(url), sep="\n  ")
        print(f"after 10 closed tabs the next request takes {closed_tabs(url, 10):.1f} s; {memory(process):,.0f} MB")


if __name__ == "__main__":
    main()
