"""Density and coverage: whether points of one set lie where another has its own, and whether they reach all of it.

Naeem et al. (2020), "Reliable fidelity and diversity metrics for generative models", Eqs. 6 and 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 5  # as in the paper


def radii(reference: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """(n, p) points -> the distance (n,) of each to its k-th nearest other. Raises ValueError unless n > k."""
    if len(reference) <= k:
        raise ValueError(
            f"The {k}-th nearest neighbour needs more than {k} clips of reference, but got {len(reference)}."
        )
    return distances(reference, reference).kthvalue(k + 1, dim=1).values  # the nearest is the point itself


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(m, p) and (n, p) points -> Euclidean distance of each pair (m, n), by differences, so equal points are at 0."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def inside(judged: Tensor, reference: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """(m, p) judged, (n, p) reference -> whether each judged point lies nearer to a reference point than its radius.

    Gives booleans (m, n): all that density and coverage need.
    """
    return distances(judged, reference) < radii(reference, k)


def density(within: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """`inside` (m, n) -> for each judged point (m,) the number of reference balls around it, over k. The mean is 1 for
    two sets of one distribution; it can exceed 1.
    """
    return within.double().sum(1) / k


def coverage(within: Tensor) -> float:
    """`inside` (m, n) -> the share of reference balls that hold a judged point: 0 to 1."""
    return float(within.any(0).double().mean())


def expected_coverage(n: int, m: int, k: int = NEIGHBOURS) -> float:
    """Give the coverage to expect where m judged and n reference points have one distribution (Naeem et al., Eq. 10).

    1 - (n - 1)...(n - k) / ((n + m - 1)...(n + m - k)), whatever the distribution.
    """
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (n - i) / (n + m - i)
    return 1 - missed
