"""How a store uses its codebooks, and the moments of its latents: counted exactly, a block of frames at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from codecdiff import Codec, device_of
from codecdiff.data import CodeStore
from codecdiff.errors import InvalidValue

BLOCK = 2**16  # frames counted at once
NUM_CODES = 2**16  # that a store can hold: they are uint16


@dataclass(frozen=True)
class CodeCounts:
    """How often codes occur in a store.

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


def count_codes(store: CodeStore, progress: Callable[[int], None] = lambda count: None) -> CodeCounts:
    """Count the codes of a store. `progress` is called with the number of tracks done."""
    k = store.header["num_codebooks"]
    counts, repeats, pairs = np.zeros((k, NUM_CODES), np.int64), np.zeros(k, np.int64), 0
    for i in range(len(store)):
        last = np.empty((0, k), np.uint16)  # frame of the block before
        for block in _blocks(store.codes(i)):
            for row, column in zip(counts, np.ascontiguousarray(block.T), strict=True):
                block_counts = np.bincount(column)
                row[: len(block_counts)] += block_counts
            joined = np.concatenate([last, block])
            repeats += (joined[1:] == joined[:-1]).sum(0)
            pairs += len(joined) - 1
            last = block[-1:]
        progress(i + 1)
    return CodeCounts(counts, repeats, pairs)


def _blocks(frames: np.ndarray) -> Iterator[np.ndarray]:
    return (frames[start : start + BLOCK] for start in range(0, len(frames), BLOCK))


def entropy(counts: np.ndarray) -> float:
    """Return the entropy, in bits, of the distribution with these counts (n,) (Shannon 1948)."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0  # never -0


def corrected_entropy(counts: np.ndarray) -> float:
    """Return the entropy in bits with the correction of Miller and Madow (1955): few samples underestimate it."""
    used = np.count_nonzero(counts)
    return entropy(counts) + (used - 1) / (2 * float(counts.sum()) * np.log(2))


def codebook_statistics(counts: CodeCounts, size: int | None, levels: Sequence[int] | None) -> list[dict[str, Any]]:
    """Return the statistics of every codebook; None for those that need frames or an unknown fact of the codec.

    `size` is the number of vectors of a codebook, `levels` the level of each. Raises InvalidValue for a code beyond
    `size`.
    """
    if size is not None and (beyond := np.argwhere(counts.counts[:, size:])).size:
        codebook, code = beyond[0]
        raise InvalidValue(
            f"The store holds the code {size + code} in codebook {codebook}, but its codec has {size} codes: "
            "it is damaged. Encode again."
        )
    return [
        {"codebook": k, "level": levels[k] if levels else None, "size": size, **_codebook(counts, k, size)}
        for k in range(len(counts.counts))
    ]


def _codebook(all_counts: CodeCounts, k: int, size: int | None) -> dict[str, Any]:
    counts, total = all_counts.counts[k], all_counts.frames
    used = int(np.count_nonzero(counts))
    bits = entropy(counts) if total else None
    return {
        "used": used,
        "used_fraction": used / size if size else None,
        "entropy": bits,
        "entropy_fraction": bits / np.log2(size) if bits is not None and size and size > 1 else None,
        "corrected_entropy": corrected_entropy(counts) if total else None,
        "perplexity": 2**bits if bits is not None else None,
        "most_frequent": {"code": int(counts.argmax()), "fraction": counts.max() / total} if total else None,
        "repeats": all_counts.repeats[k] / all_counts.pairs if all_counts.pairs else None,
        "repeats_by_chance": float(np.square(counts / total).sum()) if total else None,
    }


@dataclass(frozen=True)
class LatentMoments:
    """Count, mean (k, d) and variance (k, d) of latents, in float64."""

    count: int
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, latents: np.ndarray) -> Self:
        """(n, k, d) latents -> their moments."""
        values = latents.astype(np.float64)
        return cls(len(values), values.mean(0), values.var(0))

    def merged(self, other: LatentMoments) -> LatentMoments:
        """Return the moments of both sets together (Chan, Golub and LeVeque 1979), without cancellation."""
        count = self.count + other.count
        weight, apart = other.count / count, other.mean - self.mean
        within = (1 - weight) * self.variance + weight * other.variance
        return LatentMoments(count, self.mean + weight * apart, within + weight * (1 - weight) * apart**2)

    def statistics(self) -> list[dict[str, Any]]:
        """Return mean and standard deviation of every codebook, over its frames and dimensions, and per dimension."""
        values = {
            "mean": self.mean.mean(1),
            "std": np.sqrt(self.variance.mean(1) + self.mean.var(1)),
            "mean_per_dimension": self.mean,
            "std_per_dimension": np.sqrt(self.variance),
        }
        plain = {name: _finite(array) for name, array in values.items()}
        return [{"codebook": k, **{name: array[k] for name, array in plain.items()}} for k in range(len(self.mean))]


def embedded_moments(counts: np.ndarray, codec: Codec) -> LatentMoments:
    """Return the moments of the embedded codes from their counts (k, codebook_size): no frame is embedded."""
    codes = torch.arange(codec.codebook_size, device=device_of(codec)).expand(1, codec.num_codebooks, -1)
    with torch.no_grad():
        vectors = codec.embed(codes)[0].double().cpu().numpy()  # (k, d, codebook_size)
    weights = counts[:, None, : codec.codebook_size] / counts[0].sum()
    mean = (vectors * weights).sum(-1)
    return LatentMoments(int(counts[0].sum()), mean, (np.square(vectors - mean[..., None]) * weights).sum(-1))


def continuous_moments(store: CodeStore, progress: Callable[[int], None] = lambda count: None) -> LatentMoments | None:
    """Return the moments of a store's pre-quantization latents, None without frames. `progress` as in `count_codes`."""
    moments: LatentMoments | None = None
    for i in range(len(store)):
        for block in _blocks(store.continuous(i)):
            moments = moments.merged(LatentMoments.of(block)) if moments else LatentMoments.of(block)
        progress(i + 1)
    return moments


def _finite(values: np.ndarray) -> list[Any]:
    """Return numbers as JSON has them: None for infinity and NaN, as for latents beyond float16."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
