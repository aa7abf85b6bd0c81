"""The command `codecdiff ui`."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import err, select_device
from codecdiff.errors import InvalidValue

if TYPE_CHECKING:
    from codecdiff.pipeline import Pipeline

M_ARENA_MAX = -8  # of malloc.h
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Folder, installed model or Hugging Face id; any number.", show_default="starter"),
]
Login = Annotated[
    str,
    typer.Option(
        metavar="LOGIN", envvar="CODECDIFF_UI_AUTH", help="Who may enter, as USER:PASSWORD.", show_default=False
    ),
]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Download what the model names on the Hugging Face hub.")
]
AllowLocalParts = Annotated[
    bool, typer.Option("--allow-local-parts", help="Use files outside of the model's folder that it names.")
]


def ui(
    models: Models = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    auth: Login = "",
    max_seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Longest audio to generate or to edit.")
    ] = 180.0,
    max_waveforms: Annotated[int, typer.Option(min=1, max=64, help="Waveforms of one request.")] = 4,
    max_queue: Annotated[int, typer.Option(min=1, max=10_000, help="Requests that may wait.")] = 64,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the browser.")] = False,
    device: Annotated[str, typer.Option(help="Device to compute on. Default: a GPU if there is one.")] = "",
    allow_download: AllowDownload = False,
    allow_local_parts: AllowLocalParts = False,
) -> None:
    """Generate, edit and compare music in the browser.

    It is reached from this machine alone unless --host says otherwise, and sends nothing elsewhere.
    """
    login = parse_login(auth)
    check_address(host, port or 0)
    limit_heaps()
    if not is_loopback(host) and login is None:
        err.print(f"Everyone who reaches {host} can use the studio: add --auth USER:PASSWORD.", style="yellow")
    with TemporaryDirectory(prefix="codecdiff-studio-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": str(Path(folder, "uploads")), "GRADIO_ANALYTICS_ENABLED": "False"}
        from codecdiff_studio.app import launch, new_app
        from codecdiff_studio.studio import Limits, Studio

        with err.status("Loading"):
            pipelines = load_models(models or ["starter"], device, allow_download, allow_local_parts)
            limits = Limits(seconds=max_seconds, waveforms=max_waveforms, queue=max_queue)
            app = new_app(Studio(pipelines, Path(folder), limits))
            url = launch(app, host, port, login, Path(folder))
        err.print(f"codecdiff studio: {url} (stop it with Ctrl+C)", soft_wrap=True)
        if open_browser:
            webbrowser.open(url)
        for name in {"SIGTERM", "SIGHUP"} & {*dir(signal)}:  # as Ctrl+C, also where the terminal is closed
            signal.signal(getattr(signal, name), signal.default_int_handler)  # and the files are deleted
        with suppress(KeyboardInterrupt):
            Event().wait()
        app.close(verbose=False)


def limit_heaps() -> None:
    """Let the threads of the server share two heaps, where the C library is glibc: each would fill one of its own."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # of other C libraries
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def load_models(
    names: Sequence[str], device: str, allow_download: bool, allow_local_parts: bool
) -> dict[str, Pipeline]:
    """Load models by name."""
    from codecdiff.pipeline import Pipeline

    options: Any = {"allow_download": allow_download, "allow_local_parts": allow_local_parts}
    return {name: Pipeline.from_pretrained(name, device=select_device(device), **options) for name in names}


def parse_login(text: str) -> tuple[str, str] | None:
    """Return the user and the password of `USER:PASSWORD`, None for an empty text. Raises InvalidValue."""
    user, colon, password = text.partition(":")
    if text and not (user and colon and password):
        raise InvalidValue("Invalid --auth: expected USER:PASSWORD, as in --auth me:secret.")
    return (user, password) if text else None


def check_address(host: str, port: int) -> None:
    """Raise InvalidValue for an address that cannot be listened on; port 0 is any."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InvalidValue(f"Port {port} is in use. Try --port {port % 65535 + 1}.") from error
        raise InvalidValue(
            f"Cannot listen on {host}{f':{port}' * bool(port)}: {error.strerror}. Name an address of this machine by "
            "--host, and a port that is free by --port, or leave them out."
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
