"""Training scripts and their configurations. They are also installed, as the package `codecdiff.recipes`."""

from pathlib import Path

from codecdiff.errors import MissingFile

CONFIGS = Path(__file__).parent / "configs"


def require_music(audio: Path | None, store: Path) -> None:
    """Raise MissingFile if there is neither a folder of music to train on, nor a store of its codes."""
    if not (store / "header.json").is_file() and not (audio and audio.is_dir()):
        what = f"'{audio}' is not a folder" if audio else "data.audio is not set"
        raise MissingFile(
            f"{what}: no music to train on. Name a folder of your own, data.audio=FOLDER, or compose music first: "
            "python -m codecdiff_starter.composer runs/music"
        )
