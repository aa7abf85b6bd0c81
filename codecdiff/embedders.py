"""The embedders that need no download: log-mel features and a codec's own encoder; and what those of windows share.

Shapes here: w window, e embedding; b and t as everywhere.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Embedder
from codecdiff.metrics import FFT_SECONDS, FRAMES_PER_SECOND, NUM_BANDS, WINDOW_SECONDS, window_features
from codecdiff.precision import exactly


def check_clips(audio: Tensor) -> None:
    """Raise ValueError unless audio is mono clips, (b, t), of at least one sample."""
    if audio.ndim != 2 or audio.shape[1] < 1:
        raise ValueError(
            f"An embedder hears mono clips, (b, t) with t >= 1, but got shape {tuple(audio.shape)}. "
            "Mix channels down (`audio.mean(1)`)."
        )


class Windowed(Embedder):
    """An embedder that hears every window alone: cut, padded where it is too short, and embedded without the others.

    A subclass gives the facts and `embed_windows`. What is left behind the last whole window is heard, padded, where
    `keeps_rest` is True, and not heard otherwise; a clip shorter than a window is always padded. One that changes this
    says so in its `policy`.
    """

    keeps_rest: bool = False
    windows_at_once: int = 16  # bounds memory
    policy = "a clip shorter than a window is followed by silence, the rest after the last whole window is not heard"

    @abstractmethod
    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows, each of `window_seconds` -> (n, e) vectors, each of its window alone."""

    def pad(self, audio: Tensor, samples: int) -> Tensor:
        """(b, t) audio shorter than a window -> (b, samples): followed by silence, unless overridden."""
        return functional.pad(audio, (0, samples - audio.shape[1]))

    def cut(self, audio: Tensor) -> Tensor:
        """(b, t) audio -> (b, w, t') its windows."""
        samples, hop = round(self.window_seconds * self.sample_rate), round(self.hop_seconds * self.sample_rate)
        windows = [audio.unfold(1, samples, hop)] if audio.shape[1] >= samples else []
        count = windows[0].shape[1] if windows else 0
        heard = (count - 1) * hop + samples if count else 0
        if not count or (self.keeps_rest and heard < audio.shape[1]):
            windows.append(self.pad(audio[:, count * hop :], samples)[:, None])
        return torch.cat(windows, dim=1)

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, e) vectors of its windows, some at once, whatever autocast the caller is in."""
        check_clips(audio)
        windows = self.cut(audio.detach().float())
        with exactly(audio.device):
            rows = [self.embed_windows(rows) for rows in windows.flatten(0, 1).split(self.windows_at_once)]
        return torch.cat(rows).float().unflatten(0, windows.shape[:2])


class LogMel(Embedder):
    """Mean and deviation over time of 32 log-mel bands: 64 numbers per second of audio, windows half overlapped.

    Exactly `codecdiff.metrics.window_features`, in float32. It needs no download and tells loudness, balance and
    liveliness of bands, not melody or meaning.

    Args:
        sample_rate: In Hz, that audio is resampled to; bands reach to 16 kHz, or to half of it.

    """

    window_seconds = WINDOW_SECONDS
    width = 2 * NUM_BANDS
    policy = Windowed.policy

    def __init__(self, *, sample_rate: int = 44_100) -> None:
        super().__init__()
        if sample_rate < 2 * FRAMES_PER_SECOND:
            raise ValueError(f"sample_rate={sample_rate} is no rate for music. Give Hz, such as 44100.")
        self.sample_rate = sample_rate
        frames = round(WINDOW_SECONDS * FRAMES_PER_SECOND) // 2
        self.hop_seconds = frames * round(sample_rate / FRAMES_PER_SECOND) / sample_rate
        self.halo_seconds = 2 ** round(math.log2(FFT_SECONDS * sample_rate)) / sample_rate  # of frames at its edges

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, 64); a clip shorter than a second is followed by silence."""
        check_clips(audio)
        missing = max(0, round(self.window_seconds * self.sample_rate) - audio.shape[1])
        with exactly(audio.device):
            return window_features(functional.pad(audio, (0, missing)), self.sample_rate).float()


class CodecEmbedder(Windowed):
    """A codec's own encoder: mean and deviation over time of its latents before quantisation, second by second.

    Every second is encoded alone. A codec of several channels hears the one on each of them.

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
            raise ValueError(
                f"{type(self.codec).__name__} has to be fitted to music before it can embed. "
                "Take the codec of a trained model, or another, such as dac."
            )
        latents = self.codec.encode_continuous(windows[:, None].expand(-1, self.codec.channels, -1).to(device_of(self)))
        latents = latents.flatten(1, 2).float()
        return torch.cat([latents.mean(2), latents.std(2, correction=0)], dim=1)
