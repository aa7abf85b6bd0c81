"""Gaussians fitted to vectors: moments that are gathered in parts and merged, and the Fréchet distance of two.

Everything is float64. Shapes: m vectors of width p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """How many vectors there were, their mean and their scatter: all that a Gaussian fitted to them needs.

    `+` merges the moments of two sets into those of both together, so that parts can be gathered by as many processes:
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", Eq. 2.1, for matrices.
    """

    count: float  # of vectors; a weight where vectors are weighted
    mean: Tensor  # (p,)
    scatter: Tensor  # (p, p), the sum of the outer products of deviations from the mean

    @classmethod
    def none(cls, width: int) -> Moments:
        """Give the moments of no vectors, to which others can be added."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    @classmethod
    def of(cls, vectors: Tensor, weights: Tensor | None = None) -> Moments:
        """(..., p) vectors, one weight (m,) each or all equal -> their moments. A weight counts copies of a vector."""
        x = vectors.flatten(0, -2).double()
        if not len(x):
            return cls.none(x.shape[1])
        w = torch.ones(len(x), dtype=x.dtype, device=x.device) if weights is None else weights.to(x)
        mean = w @ x / w.sum()
        deviations = (x - mean) * w.sqrt()[:, None]
        return cls(float(w.sum()), mean, deviations.T @ deviations)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def width(self) -> int:
        """Width p of the vectors."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """Unbiased sample covariance (p, p), as numpy.cov gives it; zeros for a single vector."""
        return self.scatter / max(self.count - 1, 1)

    def rank(self) -> int:
        """Give the numerical rank of the covariance: of p if its vectors fill all p dimensions, at most count - 1."""
        return int(torch.linalg.matrix_rank(self.covariance, hermitian=True))


def root(covariance: Tensor) -> Tensor:
    """(p, p) covariance -> its symmetric root (p, p). What rounding made negative counts as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet(mean_a: Tensor, factor_a: Tensor, mean_b: Tensor, factor_b: Tensor) -> float:
    """Fréchet distance of two Gaussians, each a mean m (p,) and a factor F (r, p) of its covariance C = F'F.

    Heusel et al. (2017), "GANs trained by a two time-scale update rule", Eq. 6:

        |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^1/2

    The trace of the root is the sum of the singular values of F_a F_b'. No complex root is taken and no eigenvalue is
    squared, so it is as exact where a covariance is singular as where it is not. Symmetric roots are factors, and so
    are centred vectors over (n - 1)^1/2, which are cheaper where there are few.
    """
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + factor_a.square().sum() + factor_b.square().sum() - 2 * overlap
    return max(float(distance), 0.0)


def frechet_of_moments(a: Moments, b: Moments) -> float:
    """Fréchet distance of the Gaussians with the sample means and covariances of two sets, with no shrinkage."""
    return frechet(a.mean, root(a.covariance), b.mean, root(b.covariance))


def fitted(vectors: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(m, p) vectors, one weight (m,) each or all equal -> their mean (p,) and a factor (r, p) of their covariance.

    Of up to p vectors the factor is themselves, centred; of more, the symmetric root. The two are equally good.
    """
    x = vectors.double()
    w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights.double()
    x, w = x[w > 0], w[w > 0]
    if len(x) > x.shape[1]:
        moments = Moments.of(x, w)
        return moments.mean, root(moments.covariance)
    mean = w @ x / w.sum()
    return mean, (x - mean) * (w / (w.sum() - 1).clamp(min=1)).sqrt()[:, None]


def intercept(x: Sequence[float], y: Sequence[float]) -> float:
    """Give y at x = 0 of the straight line through at least two points, by least squares."""
    points = torch.tensor([x, y], dtype=torch.float64)
    dx, dy = points - points.mean(1, keepdim=True)
    slope = (dx @ dy) / dx.square().sum()
    return float(points[1].mean() - slope * points[0].mean())


def merged(parts: Iterable[Moments], width: int) -> Moments:
    """Merge any number of moments of vectors of this width."""
    return sum(parts, Moments.none(width))
