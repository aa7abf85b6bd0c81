"""Plugins are tried in a process of their own: one that hangs there, or ends it, is told like one that raises.

One worker goes through them all, because each would import torch again; it is replaced when a plugin hangs or kills it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from codecdiff import registry
from codecdiff.registry import Plugin

PATIENCE = 60.0  # seconds that importing one plugin may take


def problems(plugins: Iterable[Plugin], seconds: float = PATIENCE) -> dict[Plugin, str]:
    """Load each part, model and command, and say what is wrong with those that fail.

    A plugin may take so many seconds. What its metadata says already is said without importing it, and what stands in
    a module that hung or killed the worker is not tried again.
    """
    found = {plugin: plugin.obstacle for plugin in plugins}
    deadly: dict[tuple[str, str], str] = {}
    with _worker() as worker:
        for plugin in [plugin for plugin, problem in found.items() if not problem]:
            module = (plugin.distribution, plugin.entry.module_name)
            found[plugin] = deadly.get(module) or worker.ask(plugin, seconds)
            if worker.is_lost:
                deadly[module] = found[plugin]
    return {plugin: problem for plugin, problem in found.items() if problem}


def problem_of(plugin: Plugin) -> str:
    """Load an installed part, model or command here, and say what is wrong with it; empty if it is fine."""
    try:
        if plugin.kind == registry.MODELS:
            from codecdiff.pipeline.checkpoint import read_config

            read_config(registry.folder_of(plugin))
        else:
            plugin.load()
    except BaseException as error:  # a stranger's code may fail in any way
        return told(error)
    return ""


def told(error: BaseException) -> str:
    """Give an error as one line."""
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").strip()


class _Worker:
    """A process that loads one plugin after another. It starts when it is first asked, and again when it is lost."""

    def __init__(self) -> None:
        self.process: Any = None
        self.line: Connection[Any, Any] | None = None

    @property
    def is_lost(self) -> bool:
        return self.line is None

    def ask(self, plugin: Plugin, seconds: float) -> str:
        """Say what is wrong with a plugin: also that it does not answer, or that the process is gone."""
        line = self.line or self.start()
        try:
            line.send(plugin)
            if line.poll(seconds):
                return line.recv()
            problem = f"has not been imported within {seconds:g} s: it hangs, or needs a longer --timeout"
        except (EOFError, OSError):
            self.process.join()
            problem = f"ends the Python process that imports it ({_ending(self.process.exitcode)})"
        self.stop()
        return problem

    def start(self) -> Connection[Any, Any]:
        """Start the process. What all parts import is imported by now, and not counted against the first of them."""
        context = get_context("spawn")  # a fork would inherit what this process has imported, and its locks
        self.line, other = context.Pipe()
        self.process = context.Process(target=_load_what_comes, args=(other,), daemon=True)
        self.process.start()
        other.close()
        with suppress(EOFError, OSError):
            self.line.recv()
        return self.line

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.line is not None:
            self.line.close()
            self.process.kill()
            self.process.join()
            self.line = None


@contextmanager
def _worker() -> Iterator[_Worker]:
    worker = _Worker()
    try:
        yield worker
    finally:
        worker.stop()


def _ending(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _load_what_comes(line: Connection[Any, Any]) -> None:
    """Answer each plugin with what is wrong with it. What plugins print is not for the terminal."""
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    broken = ""
    try:
        import_module("codecdiff.interfaces")
    except Exception as error:  # no plugin's fault, but none can be loaded
        broken = f"codecdiff itself cannot be imported: {told(error)}"
    line.send("")
    with suppress(EOFError, OSError):
        while True:
            plugin = line.recv()
            line.send(broken or problem_of(plugin))
