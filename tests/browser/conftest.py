"""A headless browser, and a studio that runs as its command starts it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pages import DESKTOP
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 120_000  # milliseconds, for a machine that is busy
LOCAL = re.compile(r"(file:|data:|blob:|http://127\.0\.0\.1:\d+/)")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("No Chromium is installed. On Debian: apt-get install chromium")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page; at the end, none may have asked another machine for anything, or failed."""
    contexts, requests, errors = [], [], []

    def new(width: int = DESKTOP, height: int = 900, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message) or dialog.dismiss())
        return page

    yield new
    for context in contexts:
        context.close()
    assert [url for url in requests if not LOCAL.match(url)] == []
    assert errors == []


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `codecdiff ui` and return its address."""
    port, log, files = free_port(), tmp_path_factory.mktemp("studio") / "log.txt", tmp_path_factory.mktemp("files")
    environment = {**os.environ, "NO_COLOR": "1", "TMPDIR": str(files)}
    command = [sys.executable, "-m", "codecdiff", "ui", "--port", str(port), "--max-seconds", "4"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            deadline = time.monotonic() + 180
            while f"http://127.0.0.1:{port}" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(30)
    assert not re.search("Traceback|closing server", log.read_text()), log.read_text()
    assert [file for file in files.rglob("*") if file.is_file()] == []
