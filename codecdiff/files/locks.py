"""Locks on files and folders against other processes."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from codecdiff.errors import UserError
from codecdiff.files.writing import make_folder

POLL_SECONDS = 3.0  # between two looks at a lock that another process holds


class FolderLocked(UserError, OSError):
    """Another process holds the lock of a folder."""


@contextmanager
def lock_folder(folder: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold a lock on a folder, which is created if it is missing, as `lock_path` does."""
    make_folder(folder.absolute())
    with lock_path(folder, timeout=timeout):
        yield


@contextmanager
def lock_path(path: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold a lock on a file or folder against other processes.

    The lock is a file beside it, `.NAME.lock`, which says who holds it and is deleted at the end. It is released when
    the process ends, however that happens. Without effect where no lock can be taken: on read-only file systems and on
    those without locks.

    Args:
        path: The file or folder, which need not exist.
        timeout: Seconds to wait for another process; -1 waits as long as it takes.

    Raises:
        FolderLocked: Another process still holds the lock.

    """
    from filelock import FileLock, Timeout

    path = path.absolute()
    file = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(file, thread_local=False).acquire(timeout, POLL_SECONDS))
        except Timeout as error:
            holder = ""
            with suppress(OSError, ValueError, KeyError, TypeError):  # the other may not have written it yet
                by = json.loads(file.read_text(encoding="utf-8"))
                holder = f" (process {by['process']} on {by['host']}, since {by['since']})"
            raise FolderLocked(
                f"'{path}' is being written by another run{holder}. Wait for it to end, or choose another output."
            ) from error
        except (OSError, NotImplementedError):
            pass
        else:
            holder = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            with suppress(OSError):
                file.write_text(json.dumps(holder), encoding="utf-8")
            stack.callback(_remove, file)  # while it is held: whoever waits for it looks for the file again
        yield


def _remove(file: Path) -> None:
    with suppress(OSError):  # Windows deletes no open file
        file.unlink()


def try_lock(folder: Path) -> ExitStack | None:
    """Lock a folder until the returned stack is closed; return None if another process holds the lock."""
    stack = ExitStack()
    try:
        stack.enter_context(lock_folder(folder))
    except FolderLocked:
        return None
    return stack
