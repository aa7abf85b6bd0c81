"""How a store uses its codebooks: counted exactly, a block of frames at a time, whatever the size of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from codecdiff.data.code_store import CodeStore
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec

BLOCK = 2**16  # frames looked at together
NUM_CODES = 2**16  # that a store can hold: they are uint16


@dataclass(frozen=True)
class Usage:
    """How often codes stand in a store.

    counts: (k, 65536), of every code of every codebook.
    repeats: (k,), frames that hold the code of the frame before them in their track.
    pairs: frames that have a frame before them.
    """

    counts: np.ndarray
    repeats: np.ndarray
    pairs: int

    @property
    def frames(self) -> int:
        """Latent frames that were counted."""
        return int(self.counts[0].sum())


def usage(store: CodeStore, progress: Callable[[int], None] = lambda count: None) -> Usage:
    """Count the codes of a store. `progress` is called with the number of tracks done."""
    k = store.header["num_codebooks"]
    counts, repeats, pairs = np.zeros((k, NUM_CODES), np.int64), np.zeros(k, np.int64), 0
    for i in range(len(store)):
        before = np.empty((0, k), np.uint16)  # the last frame of the block before
        for block in _blocks(store.codes(i)):
            for row, column in zip(counts, np.ascontiguousarray(block.T), strict=True):
                found = np.bincount(column)
                row[: len(found)] += found
            joined = np.concatenate([before, block])
            repeats += (joined[1:] == joined[:-1]).sum(0)
            pairs += len(joined) - 1
            before = block[-1:]
        progress(i + 1)
    return Usage(counts, repeats, pairs)


def _blocks(frames: np.ndarray) -> Iterator[np.ndarray]:
    return (frames[start : start + BLOCK] for start in range(0, len(frames), BLOCK))


def entropy(counts: np.ndarray) -> float:
    """Entropy of the shares that counts (n,) are of their sum, in bits (Shannon 1948)."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0  # never -0


def corrected_entropy(counts: np.ndarray) -> float:
    """Entropy in bits with the correction of Miller and Madow (1955): few samples make it look smaller than it is."""
    used = np.count_nonzero(counts)
    return entropy(counts) + (used - 1) / (2 * float(counts.sum()) * np.log(2))


def codebooks(used: Usage, size: int | None, levels: Sequence[int] | None) -> list[dict[str, Any]]:
    """Give the figures of every codebook; None where they need frames, or a fact of the codec that is not known.

    `size` is the number of entries of a codebook, `levels` the level of each. Raises ValueError for a code beyond size.
    """
    if size is not None and (beyond := np.argwhere(used.counts[:, size:])).size:
        codebook, code = beyond[0]
        raise ValueError(
            f"The store holds the code {size + code} in codebook {codebook}, but its codec has {size} entries: "
            "it is damaged. Encode again."
        )
    return [
        {"codebook": k, "level": levels[k] if levels else None, "size": size, **_codebook(used, k, size)}
        for k in range(len(used.counts))
    ]


def _codebook(used: Usage, k: int, size: int | None) -> dict[str, Any]:
    counts, total = used.counts[k], used.frames
    entries = int(np.count_nonzero(counts))
    bits = entropy(counts) if total else None
    return {
        "used": entries,
        "used_share": entries / size if size else None,
        "entropy": bits,
        "entropy_share": bits / np.log2(size) if bits is not None and size and size > 1 else None,
        "corrected_entropy": corrected_entropy(counts) if total else None,
        "perplexity": 2**bits if bits is not None else None,
        "most_frequent": {"code": int(counts.argmax()), "share": counts.max() / total} if total else None,
        "repeats": used.repeats[k] / used.pairs if used.pairs else None,
        "repeats_by_chance": float(np.square(counts / total).sum()) if total else None,
    }


@dataclass(frozen=True)
class Moments:
    """Count, mean (k, d) and variance (k, d) of latents, in float64."""

    count: int
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, latents: np.ndarray) -> Self:
        """(n, k, d) latents -> their moments."""
        values = latents.astype(np.float64)
        return cls(len(values), values.mean(0), values.var(0))

    def merged(self, other: Moments) -> Moments:
        """Give the moments of both sets together (Chan, Golub and LeVeque 1979): no square of a sum is subtracted."""
        count = self.count + other.count
        share, apart = other.count / count, other.mean - self.mean
        within = (1 - share) * self.variance + share * other.variance
        return Moments(count, self.mean + share * apart, within + share * (1 - share) * apart**2)


def entry_moments(counts: np.ndarray, codec: Codec) -> Moments:
    """Moments of the embedded codes, from how often each stands there (k, entries): no frame is embedded."""
    codes = torch.arange(codec.codebook_size, device=device_of(codec)).expand(1, codec.num_codebooks, -1)
    with torch.no_grad():
        entries = codec.embed(codes)[0].double().cpu().numpy()  # (k, d, entries)
    weights = counts[:, None, : codec.codebook_size] / counts[0].sum()
    mean = (entries * weights).sum(-1)
    return Moments(int(counts[0].sum()), mean, (np.square(entries - mean[..., None]) * weights).sum(-1))


def projection_moments(store: CodeStore, progress: Callable[[int], None] = lambda count: None) -> Moments | None:
    """Moments of the projections of a store, None if it has no frames. `progress` is told the number of tracks done."""
    moments: Moments | None = None
    for i in range(len(store)):
        for block in _blocks(store.continuous(i)):
            moments = moments.merged(Moments.of(block)) if moments else Moments.of(block)
        progress(i + 1)
    return moments


def latents(moments: Moments) -> list[dict[str, Any]]:
    """Give mean and standard deviation of every codebook, over its frames and dimensions, and of every dimension."""
    means, deviations = moments.mean.mean(1), np.sqrt(moments.variance.mean(1) + moments.mean.var(1))
    figures = {
        "mean": means,
        "std": deviations,
        "mean_per_dimension": moments.mean,
        "std_per_dimension": np.sqrt(moments.variance),
    }
    told = {name: _finite(values) for name, values in figures.items()}
    return [{"codebook": k, **{name: values[k] for name, values in told.items()}} for k in range(len(means))]


def _finite(values: np.ndarray) -> list[Any]:
    """Give numbers as JSON has them: None for what is infinite or none, as projections beyond float16 are."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
