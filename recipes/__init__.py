"""Training scripts and their configurations. They are also installed, as the package `codecdiff.recipes`."""

from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import require_writable

CONFIGS = Path(__file__).parent / "configs"


class LogConsole(Console):
    """The console of a run, on stderr. Without a terminal, as in a file, an entry of the log is one line."""

    def __init__(self) -> None:
        super().__init__(stderr=True, log_path=False, markup=False, emoji=False)

    def log(self, *objects: Any, **options: Any) -> None:
        """Print an entry with the time."""
        if self.is_terminal:
            super().log(*objects, **options)
        else:
            self.print(f"{datetime.now():[%X]}", *objects, soft_wrap=True)


def check_folders(audio: Path | None, store: Path, output: Path) -> None:
    """Raise MissingFile without a folder of music or a store of its codes, InvalidValue for a file instead.

    Raises UnusableFile if the output is read-only.
    """
    require_writable(output)
    if not (store / "header.json").is_file() and not (audio and audio.is_dir()):
        if audio and audio.exists():
            raise InvalidValue(f"data.audio='{audio}' is a file. Name the folder that contains it.")
        what = f"The folder '{audio}' does not exist" if audio else "data.audio is not set"
        raise MissingFile(
            f"{what}, but training needs music. Name a folder of your own, data.audio=FOLDER, or compose music "
            "first: python -m codecdiff_starter.composer runs/music"
        )
