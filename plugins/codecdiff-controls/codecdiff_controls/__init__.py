"""Controls in time, computed from audio files: conditioners of codecdiff."""

from codecdiff_controls.conditioner import AudioReference, Beats, Chroma, Control, Loudness, Notes

__all__ = ["AudioReference", "Beats", "Chroma", "Control", "Loudness", "Notes"]
