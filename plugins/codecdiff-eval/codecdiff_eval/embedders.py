"""Embedders that need no download: log-mel features, and the encoder of any codec."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff import device_of, exactly
from codecdiff.embedders import Windowed, check_clips
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Codec, Embedder
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


class CodecEmbedder(Windowed):
    """A codec's own encoder: mean and deviation over time of its pre-quantization latents, second by second.

    Every second is encoded alone. A codec of several channels gets the mono mix on each of them.

    Args:
        codec: Any codec; one that has to be fitted, fitted.

    """

    window_seconds = hop_seconds = 1.0

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        self.requires_grad_(False)
        self.sample_rate = codec.sample_rate
        self.width = 2 * codec.num_codebooks * codec.codebook_dim

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) seconds of audio -> (n, 2 k d): the means of all latents, then their deviations.

        Raises ValueError for a codec that is not fitted.
        """
        if not self.codec.is_fitted:
            raise InvalidValue(
                f"{type(self.codec).__name__} has to be fitted to music before it can embed. "
                "Take the codec of a trained model, or another, such as dac."
            )
        latents = self.codec.encode_continuous(windows[:, None].expand(-1, self.codec.channels, -1).to(device_of(self)))
        latents = latents.flatten(1, 2).float()
        return torch.cat([latents.mean(2), latents.std(2, correction=0)], dim=1)
