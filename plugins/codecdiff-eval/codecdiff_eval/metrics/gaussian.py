"""Gaussians fitted to vectors: statistics that are gathered in parts and merged, and the Fréchet distance of two.

Everything is float64. Shapes: m vectors of width p. A Gaussian is a mean (p,) and a factor F (r, p) of its covariance
C = F'F: its symmetric root, or centered vectors over (n - 1)^1/2, which is cheaper where there are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue

__all__ = ["GaussianStats", "frechet_distance", "ledoit_wolf", "shrunk_frechet_distance"]


@dataclass(frozen=True)
class GaussianStats:
    """How many vectors there were, their mean and their scatter: all that a Gaussian fitted to them needs.

    `+` merges the statistics of two sets, so that parts can be gathered by as many processes: Chan, Golub & LeVeque
    (1983), "Algorithms for computing the sample variance", Eq. 2.1, for matrices.
    """

    count: float  # of vectors; a weight where vectors are weighted
    mean: Tensor  # (p,)
    scatter: Tensor  # (p, p), the sum of the outer products of deviations from the mean

    @classmethod
    def empty(cls, width: int) -> Self:
        """Return the statistics of no vectors, to which others can be added."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    @classmethod
    def of(cls, vectors: Tensor, weights: Tensor | None = None) -> Self:
        """(..., p) vectors, one weight (m,) each or all equal -> their statistics. A weight counts copies."""
        x = vectors.flatten(0, -2).double()
        if not len(x):
            return cls.empty(x.shape[1])
        w = torch.ones(len(x), dtype=x.dtype, device=x.device) if weights is None else weights.to(x)
        mean = w @ x / w.sum()
        deviations = (x - mean) * w.sqrt()[:, None]
        return cls(float(w.sum()), mean, deviations.T @ deviations)

    def __add__(self, other: GaussianStats) -> GaussianStats:
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return GaussianStats(count, mean, self.scatter + other.scatter + between)

    @property
    def width(self) -> int:
        """Width p of the vectors."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """Unbiased sample covariance (p, p), as numpy.cov returns it; zeros for a single vector."""
        return self.scatter / max(self.count - 1, 1)

    def rank(self) -> int:
        """Return the numerical rank of the covariance: p if the vectors fill all p dimensions, at most count - 1."""
        return int(torch.linalg.matrix_rank(self.covariance, hermitian=True))

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Return the mean (p,) and the symmetric root (p, p) of the covariance."""
        return self.mean, matrix_sqrt(self.covariance)


def matrix_sqrt(covariance: Tensor) -> Tensor:
    """(p, p) covariance -> its symmetric root (p, p). What rounding made negative counts as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet_distance(mean_a: Tensor, factor_a: Tensor, mean_b: Tensor, factor_b: Tensor) -> float:
    """Fréchet distance of two Gaussians, each a mean m (p,) and a factor F (r, p) of its covariance C = F'F.

    Heusel et al. (2017), "GANs trained by a two time-scale update rule", Eq. 6:

        |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^1/2

    The trace of the root is the sum of the singular values of F_a F_b'. No complex root is taken and no eigenvalue is
    squared, so it is as exact where a covariance is singular as where it is not.
    """
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + factor_a.square().sum() + factor_b.square().sum() - 2 * overlap
    return max(float(distance), 0.0)


def fit_gaussian(vectors: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(m, p) vectors, one weight (m,) each or all equal -> their mean (p,) and a factor (r, p) of their covariance.

    Of up to p vectors the factor is themselves, centered; of more, the symmetric root. The two are equally good.
    """
    x = vectors.double()
    w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights.double()
    x, w = x[w > 0], w[w > 0]
    if len(x) > x.shape[1]:
        return GaussianStats.of(x, w).gaussian()
    mean = w @ x / w.sum()
    return mean, (x - mean) * (w / (w.sum() - 1).clamp(min=1)).sqrt()[:, None]


def ledoit_wolf(samples: Tensor) -> Tensor:
    """(n, p) samples -> (p, p) covariance, shrunk towards the nearest multiple of the identity.

    Ledoit & Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices", Eq. 14,
    with S the sample covariance, |.| the Frobenius norm and m = tr(S) / p:

        (b2 / d2) m I + (1 - b2 / d2) S,    d2 = |S - m I|^2,    b2 = min(d2, sum_i |x_i x_i' - S|^2 / n^2)
    """
    n, p = samples.shape
    if n < 2:
        raise InvalidValue(f"A covariance needs at least 2 samples, but got {n}.")
    x = samples.double() - samples.double().mean(0)
    S = x.T @ x / n
    target = S.trace() / p * torch.eye(p, dtype=S.dtype, device=S.device)
    d2 = (S - target).square().sum()
    b2 = (x.square().sum(1).square().sum() / n - S.square().sum()) / n
    shrinkage = (b2 / d2).clamp(0, 1) if d2 > 0 else torch.zeros_like(d2)
    return shrinkage * target + (1 - shrinkage) * S


def fit_shrunk_gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """(..., p) features, clips and windows pooled -> their mean (p,) and the root (p, p) of `ledoit_wolf`."""
    x = features.flatten(0, -2).double()
    return x.mean(0), matrix_sqrt(ledoit_wolf(x))


def shrunk_frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance of two sets of features (..., p) with Ledoit-Wolf covariances.

    The distance of finite sets is biased upwards: compare sets of one size.
    """
    return frechet_distance(*fit_shrunk_gaussian(features_a), *fit_shrunk_gaussian(features_b))
