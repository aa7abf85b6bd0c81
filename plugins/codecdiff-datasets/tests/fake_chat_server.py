"""A real HTTP server on loopback that speaks OpenAI's chat protocol, and fails as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server does with one request: after `wait` seconds, it sends this, or hangs up without a word.

    With `drip`, the bytes of the part `drips` come one by one, with as many seconds in between.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    hang_up: bool = False
    drip: float = 0.0
    drips: str = "body"


def completion(text: str | None, *, ended: str = "stop", refusal: str | None = None, usage: bool = True) -> Reply:
    """Give a chat completion that says `text`, of 100 tokens read and 10 written."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    counts = {"usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}} if usage else {}
    return Reply(body={"choices": [{"index": 0, "message": message, "finish_reason": ended}], **counts})


def failure(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Reply:
    """Give an error as OpenAI words it."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Reply(status, {"error": {"message": message, "code": code, "type": "error", "param": None}}, named)


def echo(prompt: str, number: int) -> Reply:
    """Caption anything by its description."""
    return completion(f"A caption of {prompt.split('<description>')[1].split('<')[0]}")


class Chat:
    """What was asked and answered. `plan(prompt, n)` gives the reply to a prompt's n-th request, counted from 0."""

    def __init__(self, plan: Callable[[str, int], Reply] = echo) -> None:
        self.plan = plan
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.times: list[float] = []  # s, at which requests came
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()  # prompts that had a 200, each of which is paid for
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.address = ""

    def begin(self, request: dict[str, Any], headers: Mapping[str, str]) -> tuple[str, int]:
        prompt = request["messages"][-1]["content"]
        with self.lock:
            self.requests.append(request)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            self.asked[prompt] += 1
            return prompt, self.asked[prompt] - 1

    def end(self, prompt: str, reply: Reply) -> None:
        with self.lock:
            self.under_way -= 1
            self.answered[prompt] += reply.status == 200 and not reply.hang_up


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chat: Chat

    def do_POST(self) -> None:  # the name that the server calls
        assert self.path == "/v1/chat/completions"
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt, number = self.chat.begin(request, {key.lower(): value for key, value in self.headers.items()})
        reply = self.chat.plan(prompt, number)
        time.sleep(reply.wait)
        self.chat.end(prompt, reply)
        with suppress(OSError):  # who asked may be gone
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        if reply.hang_up:
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        if reply.drip and reply.drips == "headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx-padding: ")
            return self._drip(body, reply.drip)
        self.send_response(reply.status)
        for key, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if reply.drip:
            return self._drip(body, reply.drip)
        self.wfile.write(body)

    def _drip(self, body: bytes, seconds: float) -> None:
        for byte in body:
            self.wfile.write(bytes([byte]))
            time.sleep(seconds)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients are killed here."""


@contextmanager
def serving(chat: Chat) -> Iterator[Chat]:
    """Serve on a port of loopback while the block runs."""
    server = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": chat}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    chat.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
