"""The embedder `logmel`: mean and deviation over time of log-mel bands."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from codecdiff import exactly
from codecdiff.embedders import Windowed, check_clips
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Embedder
from codecdiff_eval.audio_features import FFT_SECONDS, FRAMES_PER_SECOND, NUM_BANDS, WINDOW_SECONDS, window_features


class LogMel(Embedder):
    """Mean and deviation over time of 32 log-mel bands: 64 numbers per second of audio, windows half overlapped.

    Exactly `audio_features.window_features`, in float32. It needs no download and reflects loudness, balance and
    liveliness of bands, not melody or meaning.

    Args:
        sample_rate: In Hz, that audio is resampled to; bands reach to 16 kHz, or to half of it.

    Example:
        embed_file("in.wav", LogMel())  # (windows, 64)

    """

    window_seconds = WINDOW_SECONDS
    width = 2 * NUM_BANDS
    policy = Windowed.policy

    def __init__(self, *, sample_rate: int = 44_100) -> None:
        super().__init__()
        if sample_rate < 2 * FRAMES_PER_SECOND:
            raise InvalidValue(f"Invalid sample_rate {sample_rate}: expected a rate of music in Hz, such as 44100.")
        self.sample_rate = sample_rate
        frames = round(WINDOW_SECONDS * FRAMES_PER_SECOND) // 2
        self.hop_seconds = frames * round(sample_rate / FRAMES_PER_SECOND) / sample_rate
        self.context_seconds = 2 ** round(math.log2(FFT_SECONDS * sample_rate)) / sample_rate  # of frames at its edges

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, 64); a clip shorter than a second is followed by silence."""
        check_clips(audio)
        missing = max(0, round(self.window_seconds * self.sample_rate) - audio.shape[1])
        with exactly(audio.device):
            return window_features(functional.pad(audio, (0, missing)), self.sample_rate).float()
