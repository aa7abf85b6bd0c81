"""Training scripts and their configurations. They are also installed, as the package `codecdiff.recipes`."""

from pathlib import Path

from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import require_writable

CONFIGS = Path(__file__).parent / "configs"


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
