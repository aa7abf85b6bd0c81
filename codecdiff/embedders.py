"""Embedders: the base class of those that embed windows one by one, and how audio of any length is embedded.

Shapes here: w window, e embedding; b and t as everywhere. `codecdiff.data` embeds files, and keeps their vectors.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Embedder
from codecdiff.precision import exactly

__all__ = ["BATCH_SIZE", "Windowed", "check_clips", "embed_blocks", "embed_clips"]

BLOCK_SECONDS = 60.0  # of audio that is embedded at once
BATCH_SIZE = 8  # clips that are embedded at once
Label = TypeVar("Label")


def check_clips(audio: Tensor) -> None:
    """Raise ValueError unless audio is mono clips, (b, t), of at least one sample."""
    if audio.ndim != 2 or audio.shape[1] < 1:
        raise ValueError(
            f"An embedder takes mono clips, (b, t) with t >= 1, but got shape {tuple(audio.shape)}. "
            "Mix channels down (`audio.mean(1)`)."
        )


class Windowed(Embedder):
    """An embedder that embeds every window alone: cut, padded where it is too short, and embedded without the others.

    A subclass defines the attributes and `embed_windows`. What is left after the last whole window is embedded, padded,
    where `keeps_rest` is True, and ignored otherwise; a clip shorter than a window is always padded. A subclass that
    changes this says so in its `policy`.
    """

    keeps_rest: bool = False
    windows_at_once: int = 16  # bounds memory
    policy = "a clip shorter than a window is followed by silence, the rest after the last whole window is ignored"

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
        covered = (count - 1) * hop + samples if count else 0
        if not count or (self.keeps_rest and covered < audio.shape[1]):
            windows.append(self.pad(audio[:, count * hop :], samples)[:, None])
        return torch.cat(windows, dim=1)

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, e) vectors of its windows, some at once, whatever autocast the caller is in."""
        check_clips(audio)
        windows = self.cut(audio.detach().float())
        with exactly(audio.device):
            rows = [self.embed_windows(rows) for rows in windows.flatten(0, 1).split(self.windows_at_once)]
        return torch.cat(rows).float().unflatten(0, windows.shape[:2])


def embed_blocks(blocks: Iterable[Tensor], embedder: Embedder, *, seconds: float = BLOCK_SECONDS) -> Tensor:
    """Blocks (t,) of one clip -> (w, e) vectors on the CPU: what `embedder.embed` returns for the whole.

    About `seconds` of audio are in memory at once. Each block is embedded with the windows before it that lie
    within its context, and with audio for one more window behind it, so that its ends are never those of the clip.
    """
    hop = round(embedder.hop_seconds * embedder.sample_rate)
    before = math.ceil(embedder.context_seconds / embedder.hop_seconds)  # windows
    behind = math.ceil((embedder.window_seconds + embedder.context_seconds) * embedder.sample_rate)  # samples
    fresh = max(1, before, round(seconds / embedder.hop_seconds))  # windows of a block
    held, pending, repeated = torch.zeros(0), [], 0
    vectors: list[Tensor] = []
    for block in blocks:
        pending.append(block)
        needed = (repeated + fresh) * hop + behind
        if len(held) + sum(map(len, pending)) < needed:
            continue
        held, pending = torch.cat([held, *pending]), []
        while len(held) >= (needed := (repeated + fresh) * hop + behind):
            vectors.append(_embed(held[:needed], embedder)[repeated : repeated + fresh])
            held, repeated = held[(repeated + fresh - before) * hop :], before
    return torch.cat([*vectors, _embed(torch.cat([held, *pending]), embedder)[repeated:]])


def _embed(audio: Tensor, embedder: Embedder) -> Tensor:
    """(t,) audio -> (w, e) vectors on the CPU."""
    return embedder.embed(audio[None].to(device_of(embedder)))[0].cpu()


def embed_clips(
    embedder: Embedder, clips: Iterable[tuple[Label, Tensor]], *, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Label, str, Tensor]]:
    """Embed clips: each a label and mono audio (t,) at the embedder's rate -> its label, hash and vectors (w, e).

    Clips of one length that follow each other share a batch. Raises ValueError for a clip without samples.
    """
    for batch in _batches(clips, batch_size):
        audio = torch.stack([samples for _, samples in batch])
        with torch.no_grad():
            vectors = embedder.embed(audio.to(device_of(embedder))).cpu()
        for (label, samples), rows in zip(batch, vectors, strict=True):
            yield label, hashlib.sha256(samples.float().cpu().numpy().tobytes()).hexdigest()[:32], rows


def _batches(clips: Iterable[tuple[Label, Tensor]], size: int) -> Iterator[list[tuple[Label, Tensor]]]:
    batch: list[tuple[Label, Tensor]] = []
    for label, audio in clips:
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"Clip '{label}' has shape {tuple(audio.shape)}: it must be mono audio (t,) with samples.")
        if batch and (len(batch) == size or len(batch[0][1]) != len(audio)):
            yield batch
            batch = []
        batch.append((label, audio))
    if batch:
        yield batch
