"""Training scripts and their configurations. They are also installed, as the package `codecdiff.recipes`."""

from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
