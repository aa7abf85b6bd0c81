"""A linear probe of instruments: whether musicnn's embeddings tell them apart, and so whether they sound different.

    train, test = {"piano": [...], "flute": [...]}, {"piano": [...], "flute": [...]}    # clips (t,) at 16 kHz
    report = probe_instruments(train, test)
    report.accuracy, report.by_name["flute"], report.confusion

With notes of one soundfont to train on and of another to test with, the accuracy says whether instruments are
recognizable as what they are called, and not only as what they were rendered with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from codecdiff_eval.metrics.probe import Probe
from torch import Tensor

from codecdiff.embedders import embed_clips
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Embedder
from codecdiff_musicnn.embedder import MusiCNN

__all__ = ["InstrumentReport", "embed_means", "probe_instruments"]

Clips = Mapping[str, Sequence[Tensor]]  # instrument -> mono clips (t,) at the embedder's rate


@dataclass(frozen=True)
class InstrumentReport:
    """How well a linear classifier of embeddings names the instruments of clips that it was not fitted to.

    names: of the instruments, in the order of `confusion`.
    confusion: (k, k) clips of the instrument of the row that were taken for that of the column.
    """

    names: tuple[str, ...]
    confusion: Tensor

    @property
    def accuracy(self) -> float:
        """The mean over instruments of the fraction of their clips that is named right."""
        return sum(self.by_name.values()) / len(self.names)

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / len(self.names)

    @property
    def by_name(self) -> dict[str, float]:
        """The fraction of the clips of each instrument that is named right."""
        fractions = self.confusion.diagonal().double() / self.confusion.sum(1)
        return dict(zip(self.names, fractions.tolist(), strict=True))


def probe_instruments(train: Clips, test: Clips, *, embedder: Embedder | None = None) -> InstrumentReport:
    """Fit a linear probe to clips of instruments, and test it on others.

    A clip is the mean of the embeddings of its windows; a shorter one than a window, such as a note, is followed by
    silence. `embedder` is musicnn of MagnaTagATune unless another is passed; clips have its sample rate.

    Raises InvalidValue unless both sets have clips of the same instruments, at least two.

    Example:
        probe_instruments({"piano": notes[0], "flute": notes[1]}, {"piano": others[0], "flute": others[1]}).accuracy

    """
    names = tuple(sorted(train))
    empty = sorted(name for clips in (train, test) for name in clips if not clips[name])
    if set(train) != set(test) or len(names) < 2 or empty:
        raise InvalidValue(
            f"A probe needs clips of the same instruments, at least two, to train and to test, but has {names} and "
            f"{tuple(sorted(test))}{f', and no clips of {empty[0]}' if empty else ''}."
        )
    embedder = embedder or MusiCNN("mtt")
    (features, labels), (others, truth) = (embed_means(embedder, clips, names) for clips in (train, test))
    predicted = Probe.fit(features[:, None], labels).predict(others[:, None])
    confusion = torch.zeros(len(names), len(names), dtype=torch.long)
    confusion.index_put_((truth, predicted), torch.ones_like(truth), accumulate=True)
    return InstrumentReport(names, confusion)


def embed_means(embedder: Embedder, clips: Clips, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the mean vector of each clip (n, e), and the number of its instrument among `names` (n,)."""
    labeled = [(label, clip) for label, name in enumerate(names) for clip in clips[name]]
    rows = [(label, vectors.mean(0)) for label, _, vectors in embed_clips(embedder, labeled)]
    labels, means = zip(*rows, strict=True)
    return torch.stack(means), torch.tensor(labels)
