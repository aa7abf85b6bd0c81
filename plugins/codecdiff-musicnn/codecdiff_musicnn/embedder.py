"""musicnn as embedders of codecdiff: of what its last layer but one says, and of the tags themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff.embedders import check_clips
from codecdiff.interfaces import Embedder
from codecdiff_musicnn.config import Checkpoint, load_checkpoint, tag_names
from codecdiff_musicnn.network import EMBEDDING_WIDTH, NUM_FRAMES, NUM_TAGS, MusiCNNNetwork
from codecdiff_musicnn.spectrogram import FFT_SIZE, HOP_LENGTH, SAMPLE_RATE, LogMelSpectrogram

WINDOWS_AT_ONCE = 16  # bounds memory


class Spectral(Embedder):
    """An embedder of windows of 187 frames of the spectrogram, 2.992 s, which follow each other."""

    sample_rate = SAMPLE_RATE
    window_seconds = hop_seconds = NUM_FRAMES * HOP_LENGTH / SAMPLE_RATE
    context_seconds = FFT_SIZE / 2 / SAMPLE_RATE  # the first frame reaches as far into what is before
    policy = "a clip shorter than a window is followed by silence, the rest after the last whole window is ignored"

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = LogMelSpectrogram()

    def embed_spectrograms(self, audio: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """(b, t) audio -> (b, w, e), with a function of (n, 187, 96) spectrograms to (n, e) vectors."""
        check_clips(audio)
        shortest = (NUM_FRAMES - 1) * HOP_LENGTH
        audio = functional.pad(audio.detach().float(), (0, max(0, shortest - audio.shape[1])))
        with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
            frames = self.spectrogram(audio)  # (b, frames, 96)
            count = frames.shape[1] // NUM_FRAMES
            windows = frames[:, : count * NUM_FRAMES].reshape(-1, NUM_FRAMES, frames.shape[2])
            vectors = torch.cat([embed(rows) for rows in windows.split(WINDOWS_AT_ONCE)])
        return vectors.unflatten(0, (len(audio), count))

    @property
    def description(self) -> dict[str, Any]:
        """Name and options, for metrics that use this embedder by themselves."""
        return {"name": type(self).__name__, **self.arguments}


class MusiCNN(Spectral):
    """200 numbers for every 2.992 s of audio at 16 kHz: the last layer but one of a network that tags music.

    The spectrogram is that of the whole clip, cut into windows of 187 frames, as the authors do.

    Args:
        checkpoint: Trained on the Million Song Dataset (`msd`: genres, moods, voices) or on MagnaTagATune (`mtt`:
            instruments, tempo, voices).

    Source: Pons & Serra (2019), musicnn: Pre-trained convolutional neural networks for music audio tagging,
    arXiv:1909.06654.

    Example:
        MusiCNN().embed(audio)  # (b, t) mono at 16 kHz -> (b, w, 200)

    """

    width = EMBEDDING_WIDTH

    def __init__(self, checkpoint: Checkpoint = "msd") -> None:
        super().__init__()
        self.network = load_checkpoint(checkpoint)
        self.requires_grad_(False)
        self.train(False)

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, 200)."""
        return self.embed_spectrograms(audio, lambda windows: self.network(windows).embedding)


class MusiCNNTags(Spectral):
    """Probabilities of 100 tags for every 2.992 s of audio at 16 kHz: 50 of each checkpoint, each tag by itself.

    Attributes:
        names: Of the tags in order, `msd/rock` to `msd/happy`, then `mtt/guitar` to `mtt/choral`.

    Example:
        tagger = MusiCNNTags()
        dict(zip(tagger.names, tagger.embed(audio).mean(1)[0].tolist()))  # of the first clip

    """

    width = 2 * NUM_TAGS
    names = tag_names()

    def __init__(self) -> None:
        super().__init__()
        self.msd, self.mtt = load_checkpoint("msd"), load_checkpoint("mtt")
        self.requires_grad_(False)
        self.train(False)

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, 100)."""
        return self.embed_spectrograms(audio, self._probabilities)

    def _probabilities(self, windows: Tensor) -> Tensor:
        networks: tuple[MusiCNNNetwork, ...] = (self.msd, self.mtt)
        return torch.cat([network(windows).tags for network in networks], dim=1)
