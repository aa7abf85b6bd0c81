"""Nearest neighbors: density and coverage, and memorization.

Density and coverage: whether points of one set lie where another has its own, and whether they reach all of it. Naeem
et al. (2020), "Reliable fidelity and diversity metrics for generative models", Eqs. 6 and 7. Memorization: whether
generated clips are closer to training clips than to equally many clips that were not trained on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric, Statistic
from codecdiff_eval.results import Estimate

__all__ = ["coverage", "density", "distance_ratio", "nearest_distance", "nearest_distances"]

NEIGHBORS = 5  # as in the paper


def radii(reference: Tensor, k: int = NEIGHBORS) -> Tensor:
    """(n, p) points -> the distance (n,) of each to its k-th nearest other. Raises ValueError unless n > k."""
    if len(reference) <= k:
        raise InvalidValue(
            f"The {k}-th nearest neighbor needs more than {k} clips of reference, but got {len(reference)}."
        )
    return distances(reference, reference).kthvalue(k + 1, dim=1).values  # the nearest is the point itself


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(m, p) and (n, p) points -> Euclidean distance of each pair (m, n), by differences, so equal points are at 0."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def inside(points: Tensor, reference: Tensor, k: int = NEIGHBORS) -> Tensor:
    """(m, p) points, (n, p) reference -> whether each point is within the radius of a reference point.

    Booleans (m, n): all that density and coverage need.
    """
    return distances(points, reference) < radii(reference, k)


def point_density(within: Tensor, k: int = NEIGHBORS) -> Tensor:
    """`inside` (m, n) -> for each point (m,) the number of reference balls around it, over k.

    The mean is 1 for two sets of one distribution; it can exceed 1.
    """
    return within.double().sum(1) / k


def covered_fraction(within: Tensor) -> float:
    """`inside` (m, n) -> the fraction of reference balls that hold a point: 0 to 1."""
    return float(within.any(0).double().mean())


def expected_coverage(n: int, m: int, k: int = NEIGHBORS) -> float:
    """Return the coverage to expect where m points and n reference points have one distribution (Eq. 10).

    1 - (n - 1)...(n - k) / ((n + m - 1)...(n + m - k)), whatever the distribution.
    """
    return 1 - math.comb(n - 1, k) / math.comb(n + m - 1, k)


def _density(clips: ClipEmbeddings, reference: ClipEmbeddings, *, seed: int, k: int = NEIGHBORS) -> Statistic:
    """Density of clips, each the mean of its windows: fidelity. Resampling keeps the radii."""
    within = inside(clips.means(), reference.means(), k)
    return Statistic(
        lambda a, b: float(point_density(within[a][:, b], k).mean()),
        per_clip=point_density(within, k),
        options={"neighbors": k},
    )


def _coverage(clips: ClipEmbeddings, reference: ClipEmbeddings, *, seed: int, k: int = NEIGHBORS) -> Statistic:
    """Coverage of clips, each the mean of its windows: diversity. Resampling keeps the radii.

    `upper_bound` is what to expect of two sets of one distribution and these sizes.
    """
    within, best = inside(clips.means(), reference.means(), k), expected_coverage(len(reference), len(clips), k)
    return Statistic(
        lambda a, b: covered_fraction(within[a][:, b]),
        bounds=(0, 1),
        upper_bound=Estimate(best, best, best),
        options={"neighbors": k},
    )


def nearest_distance(features: Tensor, reference: Tensor) -> Tensor:
    """(n, w, p) features, (m, w', p) reference -> (n,) Euclidean distance of each clip to the nearest in reference.

    A clip is the mean of its windows.
    """
    return torch.cdist(features.mean(1), reference.mean(1)).amin(1)


def nearest_distances(features: Tensor, training: Tensor, fresh: Tensor) -> Tensor:
    """(n, w, p) features -> (n, 2) distances to the nearest training clip and to the nearest of as many fresh ones."""
    count = min(len(training), len(fresh))
    return torch.stack([nearest_distance(features, other[:count]) for other in (training, fresh)], 1)


def distance_ratio(distances: Tensor) -> float:
    """(n, 2) `nearest_distances` -> the ratio of their means: well under 1, a model plays from memory."""
    training, fresh = distances.mean(0).tolist()
    return training / fresh


DENSITY_MEANING = (
    "whether clips lie where the reference has clips: about 1 for two sets of the same kind of music, less for clips "
    "that are unlike the reference, more for clips that are all like its most typical ones"
)
COVERAGE_MEANING = (
    "fraction of the reference that has an evaluated clip nearby, which is low if the clips are all alike. Its value "
    "for real music is what to expect of two sets of these sizes"
)
density = Metric("density", _density, "higher", meaning=DENSITY_MEANING)
coverage = Metric("coverage", _coverage, "higher", meaning=COVERAGE_MEANING)
