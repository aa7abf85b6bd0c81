"""Training data: audio files and their captions in, integer codes in a store, crops out."""

from typing import TYPE_CHECKING

from codecdiff import lazy_exports

if TYPE_CHECKING:
    from codecdiff.data.audio import BadAudio, read_audio, stream_audio, write_audio
    from codecdiff.data.audio_prompt import audio_prompt_key, load_audio_prompt
    from codecdiff.data.code_store import CodeStore, load_state
    from codecdiff.data.dataset import CropBatch, TrainingCrops, split_tracks
    from codecdiff.data.embedding_cache import CachedEmbedder, TrackEmbedding, embed_file
    from codecdiff.data.encoding.encode import encode_tracks, open_store
    from codecdiff.data.encoding.job import EncodeConfig, fitting_clips
    from codecdiff.data.metadata import Track, find_tracks
    from codecdiff.data.segments import SegmentConfig

__all__ = [
    "BadAudio",
    "CachedEmbedder",
    "CodeStore",
    "CropBatch",
    "EncodeConfig",
    "SegmentConfig",
    "Track",
    "TrackEmbedding",
    "TrainingCrops",
    "audio_prompt_key",
    "embed_file",
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

__getattr__, __dir__ = lazy_exports(__name__)
