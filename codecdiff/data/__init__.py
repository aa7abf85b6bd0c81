"""Training data: audio files and their captions in, integer codes in a store, crops out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecdiff.data.audio import BadAudio, read_audio, stream_audio, write_audio
    from codecdiff.data.audio_prompt import audio_prompt_key, load_audio_prompt
    from codecdiff.data.code_store import CodeStore, load_state
    from codecdiff.data.dataset import CropBatch, TrainingCrops, split_tracks
    from codecdiff.data.encoding import EncodeConfig, encode_tracks, fitting_clips, open_store
    from codecdiff.data.metadata import Track, find_tracks
    from codecdiff.data.segments import SegmentConfig

__all__ = [
    "BadAudio",
    "CodeStore",
    "CropBatch",
    "EncodeConfig",
    "SegmentConfig",
    "Track",
    "TrainingCrops",
    "audio_prompt_key",
    "encode_tracks",
    "find_tracks",
    "fitting_clips",
    "load_audio_prompt",
    "load_state",
    "open_store",
    "read_audio",
    "split_tracks",
    "stream_audio",
    "write_audio",
]

_MODULES = {
    "data.audio": ("BadAudio", "read_audio", "stream_audio", "write_audio"),
    "data.audio_prompt": ("audio_prompt_key", "load_audio_prompt"),
    "data.code_store": ("CodeStore", "load_state"),
    "data.dataset": ("CropBatch", "TrainingCrops", "split_tracks"),
    "data.encoding": ("EncodeConfig", "encode_tracks", "fitting_clips", "open_store"),
    "data.metadata": ("Track", "find_tracks"),
    "data.segments": ("SegmentConfig",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"codecdiff.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
