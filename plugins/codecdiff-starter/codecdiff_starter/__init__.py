"""The embedded default of codecdiff: a composer, a fitted codec, text features, a small trained model."""

from pathlib import Path


def model_folder() -> Path:
    """Return the folder of the trained model that this package carries."""
    return Path(__file__).parent / "model"
