"""Kernel audio distance: how far two sets of vectors are apart by the mean similarity of their pairs.

Clips are the units and vectors, the windows of a clip, belong to one. Kernel values are summed over the windows of
every pair of clips once (`clip_sums`); resampling clips then only weighs these sums. Everything is float64.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.rng import generator
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric, Statistic

SCALE = 100  # KAD is this times the squared MMD, as its authors' package has it
VECTORS_AT_ONCE = 128  # bounds the memory of kernel values: so many rows of them
MEDIAN_VECTORS = 4096  # at most, between which all distances are taken for their median


def median_distance(vectors: Tensor, *, seed: int = 0) -> float:
    """(m, p) vectors -> the median distance of two different ones, between `MEDIAN_VECTORS` drawn at random if more.

    Raises ValueError if there are fewer than two, or half of all pairs are equal.
    """
    x = vectors.double()
    if len(x) > MEDIAN_VECTORS:
        x = x[torch.randperm(len(x), generator=generator("codecdiff_eval.median_distance", seed))[:MEDIAN_VECTORS]]
    if len(x) < 2:
        raise InvalidValue(f"A median distance needs at least 2 vectors, but got {len(x)}.")
    median = float(torch.nn.functional.pdist(x).median())
    if not median > 0:
        raise InvalidValue(
            "Half of the reference's vectors are equal, so their distances give no bandwidth: its clips "
            "are copies of each other, or silent. Choose another reference."
        )
    return median


def clip_sums(a: Tensor, lengths_a: Tensor, b: Tensor, lengths_b: Tensor, bandwidth: float) -> Tensor:
    """Sum the kernel exp(-|x - y|^2 / (2 bandwidth^2)) over the windows of every pair of clips -> (clips a, clips b).

    `a` (m, p) holds the windows of its clips in order, `lengths_a` how many each has; `b` likewise.
    """
    middle = b.double().mean(0)  # distances do not change, and lose less to rounding near the origin
    x, y = (a.double() - middle) / bandwidth, (b.double() - middle) / bandwidth
    half_a, half_b = x.square().sum(1) / 2, y.square().sum(1) / 2
    clips_a = torch.arange(len(lengths_a)).repeat_interleave(lengths_a)
    clips_b = torch.arange(len(lengths_b)).repeat_interleave(lengths_b)
    sums = torch.zeros(len(lengths_a), len(lengths_b), dtype=torch.float64)
    for rows in torch.arange(len(x)).split(VECTORS_AT_ONCE):
        exponent = torch.addmm(-half_b[:, None] - half_a[rows], y, x[rows].T)  # -|x - y|^2 / 2, (windows of b, rows)
        kernel = exponent.clamp_(max=0).exp_()
        by_clip = torch.zeros(len(lengths_b), len(rows), dtype=torch.float64).index_add(0, clips_b, kernel)
        sums.index_add_(0, clips_a[rows], by_clip.T)
    return sums


def mean_within(sums: Tensor, lengths: Tensor, counts: Tensor, *, across: bool) -> float:
    """Mean kernel over pairs of different windows of one set, from its `clip_sums` with itself (n, n).

    `counts` (n,) says how often each clip was drawn; two copies of a clip are not a pair. With `across` only windows of
    different clips are paired.
    """
    c, w, own = counts.double(), lengths.double(), sums.diagonal()
    total = c @ sums @ c - c.square() @ own
    pairs = (c @ w).square() - c.square() @ w.square()
    if not across:
        total, pairs = total + c @ (own - w), pairs + c @ (w.square() - w)
    if not pairs > 0:
        raise InvalidValue("A kernel distance needs at least 2 clips (or windows) in each set.")
    return float(total / pairs)


def mean_between(sums: Tensor, lengths: tuple[Tensor, Tensor], counts: tuple[Tensor, Tensor]) -> float:
    """Mean kernel over pairs of windows, one of each set, from their `clip_sums` (n_a, n_b)."""
    a, b = (c.double() for c in counts)
    return float(a @ sums @ b / ((a @ lengths[0].double()) * (b @ lengths[1].double())))


def _kad(
    clips: ClipEmbeddings, reference: ClipEmbeddings, *, seed: int, across: bool = False, bandwidth: float | None = None
) -> Statistic:
    """Kernel audio distance (Chung et al. 2025): 100 times the unbiased squared MMD with a Gaussian kernel.

    The bandwidth is the median distance of the reference's windows unless specified, and resampling keeps it. Unbiased,
    so 0 in the mean for two sets of one distribution, and some such values are negative. That holds for independent
    windows: `across` pairs only windows of different clips within a set, so that it also holds for windows of clips.
    """
    width = bandwidth or median_distance(reference.vectors)
    a, b = (clips.vectors, clips.lengths), (reference.vectors, reference.lengths)
    within_a, within_b, between = clip_sums(*a, *a, width), clip_sums(*b, *b, width), clip_sums(*a, *b, width)

    def of(drawn_a: Tensor, drawn_b: Tensor) -> float:
        counts = torch.bincount(drawn_a, minlength=len(clips)), torch.bincount(drawn_b, minlength=len(reference))
        own = mean_within(within_a, clips.lengths, counts[0], across=across)
        other = mean_within(within_b, reference.lengths, counts[1], across=across)
        return SCALE * (own + other - 2 * mean_between(between, (clips.lengths, reference.lengths), counts))

    return Statistic(of, options={"scale": SCALE, "bandwidth": float(f"{width:.6g}")})


KAD_MEANING = (
    "kernel audio distance, 100 times the squared maximum mean discrepancy of the embeddings. For two sets of the same "
    "kind of music it is 0 on average, however few clips there are, and often negative"
)
ACROSS_MEANING = "KAD of pairs of windows from different clips, since windows of one clip are similar"
kad = Metric("KAD", _kad, "lower", min_clips=2, meaning=KAD_MEANING)
kad_across_clips = Metric("KAD-across-clips", partial(_kad, across=True), "lower", min_clips=2, meaning=ACROSS_MEANING)
