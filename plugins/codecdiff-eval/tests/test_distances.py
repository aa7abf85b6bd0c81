"""The mathematics of scores: Gaussians, kernels and neighbors, against closed forms, scipy and explicit sums."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from codecdiff_eval.metrics.bootstrap import centered
from codecdiff_eval.metrics.gaussian import GaussianStats, fit_gaussian, frechet_distance, matrix_sqrt
from codecdiff_eval.metrics.kad import clip_sums, mean_between, mean_within, median_distance
from codecdiff_eval.metrics.neighbors import covered_fraction, expected_coverage, inside, point_density, radii
from torch import Tensor


def draw(n: int, p: int, seed: int) -> Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(n: int, p: int, seed: int) -> Tensor:
    """Vectors whose dimensions depend on each other, with a mean far from zero."""
    return draw(n, p, seed) @ draw(p, p, seed + 100) + 50 * draw(1, p, seed + 200)


def test_moments_are_the_mean_and_covariance_of_numpy():
    x = mixed(200, 7, seed=0)
    moments = GaussianStats.of(x.unflatten(0, (20, 10)))
    np.testing.assert_allclose(moments.mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-10)
    assert moments.rank() == 7


@pytest.mark.parametrize("cuts", [(1,), (50, 51), (3, 100, 199)])
def test_moments_of_parts_merge_into_those_of_all_in_any_order(cuts):
    x = mixed(200, 6, seed=1)
    parts = [GaussianStats.of(part) for part in torch.tensor_split(x, cuts)]
    whole = GaussianStats.of(x)
    for order in itertools.permutations(parts):
        together = sum(order, GaussianStats.empty(6))
        assert together.count == 200
        torch.testing.assert_close(together.mean, whole.mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(together.scatter, whole.scatter, rtol=1e-11, atol=1e-9)


def test_merging_does_not_cancel_where_the_mean_is_far_larger_than_the_spread():
    x = draw(1000, 3, seed=0) + 1e8
    together = sum((GaussianStats.of(part) for part in x.split(7)), GaussianStats.empty(3))
    torch.testing.assert_close(together.covariance, GaussianStats.of(x - 1e8).covariance, rtol=1e-6, atol=1e-7)


def test_no_vectors_add_nothing_and_a_weight_counts_copies():
    x = mixed(10, 3, seed=0)
    none = GaussianStats.empty(3)
    assert (none + none).count == 0
    torch.testing.assert_close((none + GaussianStats.of(x)).scatter, GaussianStats.of(x).scatter)
    assert GaussianStats.of(x[:0]).count == 0
    counts = torch.tensor([0, 3, 1, 0, 2, 1, 1, 0, 1, 1])
    copied, weighted = GaussianStats.of(x.repeat_interleave(counts, 0)), GaussianStats.of(x, counts)
    assert copied.count == weighted.count == 10
    torch.testing.assert_close(copied.mean, weighted.mean)
    torch.testing.assert_close(copied.scatter, weighted.scatter)
    for vectors, weights in ((x.repeat_interleave(counts, 0), None), (x, counts)):
        mean, factor = fit_gaussian(vectors, weights)
        torch.testing.assert_close(mean, copied.mean)
        torch.testing.assert_close(factor.T @ factor, copied.covariance)


@pytest.mark.parametrize("n", [3, 8, 9, 40])
def test_a_fitted_factor_gives_the_covariance_with_few_vectors_and_with_many(n):
    x = mixed(n, 8, seed=n)
    mean, factor = fit_gaussian(x)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(factor.T @ factor, np.cov(x.numpy(), rowvar=False), rtol=1e-9, atol=1e-10)


def test_the_frechet_distance_of_known_gaussians_is_the_closed_form():
    """Commuting covariances: the squared distance of the means and of the axes' deviations."""
    turn = torch.linalg.qr(draw(6, 6, seed=0))[0]
    a, b = torch.linspace(0.1, 3, 6).double(), torch.linspace(2, 0.5, 6).double()
    means = draw(2, 6, seed=1)
    factors = (torch.diag(a) @ turn, torch.diag(b) @ turn)
    expected = float((means[0] - means[1]).square().sum() + (a - b).square().sum())
    assert frechet_distance(means[0], factors[0], means[1], factors[1]) == pytest.approx(expected, rel=1e-12)


def by_scipy(a: GaussianStats, b: GaussianStats) -> float:
    """The published formula with scipy's matrix root, as most implementations have it."""
    cov_a, cov_b = a.covariance.numpy(), b.covariance.numpy()
    trace = np.trace(cov_a + cov_b - 2 * np.real(scipy.linalg.sqrtm(cov_a @ cov_b)))
    return float((a.mean - b.mean).square().sum() + trace)


@pytest.mark.parametrize("p", [2, 16, 64])
def test_frechet_is_that_of_scipys_matrix_root(p):
    a, b = GaussianStats.of(mixed(500, p, seed=0)), GaussianStats.of(mixed(300, p, seed=1))
    assert frechet_distance(*a.gaussian(), *b.gaussian()) == pytest.approx(by_scipy(a, b), rel=1e-9)


def test_frechet_of_singular_covariances_is_the_limit_of_regular_ones():
    few, many = mixed(10, 32, seed=0), mixed(400, 32, seed=0)
    a, b = GaussianStats.of(few), GaussianStats.of(many)
    assert a.rank() == 9
    assert b.rank() == 32
    eps = 1e-9
    lifted = GaussianStats(a.count, a.mean, a.scatter + eps * (a.count - 1) * torch.eye(32, dtype=torch.float64))
    assert frechet_distance(*a.gaussian(), *b.gaussian()) == pytest.approx(by_scipy(lifted, b), rel=1e-5)
    assert frechet_distance(*fit_gaussian(few), *fit_gaussian(many)) == pytest.approx(
        frechet_distance(*a.gaussian(), *b.gaussian()), rel=1e-7
    )


@pytest.mark.parametrize("n", [2, 10, 33, 500])
def test_frechet_of_a_set_with_itself_is_zero_and_symmetric_and_turns_with_its_space(n):
    a, b = mixed(n, 32, seed=0), mixed(n + 5, 32, seed=1)
    scale = float(a.var(0).sum())
    assert frechet_distance(*fit_gaussian(a), *fit_gaussian(a)) < 1e-10 * scale
    distance = frechet_distance(*fit_gaussian(a), *fit_gaussian(b))
    assert frechet_distance(*fit_gaussian(b), *fit_gaussian(a)) == pytest.approx(distance, rel=1e-9)
    turn = torch.linalg.qr(draw(32, 32, seed=2))[0]
    assert frechet_distance(*fit_gaussian(a @ turn), *fit_gaussian(b @ turn)) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(*fit_gaussian(3 * a + 1), *fit_gaussian(3 * b + 1)) == pytest.approx(9 * distance, rel=1e-9)


def test_a_root_is_symmetric_and_its_square_the_covariance():
    covariance = GaussianStats.of(mixed(50, 5, seed=0)).covariance
    torch.testing.assert_close(matrix_sqrt(covariance), matrix_sqrt(covariance).T)
    torch.testing.assert_close(matrix_sqrt(covariance) @ matrix_sqrt(covariance), covariance)


def clips(n: int, seed: int, p: int = 3) -> tuple[Tensor, Tensor]:
    """The windows of n clips of one to four windows each, and how many each has."""
    lengths = 1 + torch.arange(n) % 4
    return draw(int(lengths.sum()), p, seed), lengths


def kernel(x: Tensor, y: Tensor, bandwidth: float) -> float:
    return math.exp(-float((x - y).square().sum()) / (2 * bandwidth**2))


def mmd_by_sums(a: Tensor, b: Tensor, bandwidth: float) -> float:
    """The unbiased estimate of Gretton et al. (2012), Eq. 3, term by term."""
    m, n = len(a), len(b)
    within_a = sum(kernel(a[i], a[j], bandwidth) for i in range(m) for j in range(m) if i != j)
    within_b = sum(kernel(b[i], b[j], bandwidth) for i in range(n) for j in range(n) if i != j)
    between = sum(kernel(x, y, bandwidth) for x in a for y in b)
    return within_a / (m * (m - 1)) + within_b / (n * (n - 1)) - 2 * between / (m * n)


def mmd(a: Tensor, lengths_a: Tensor, b: Tensor, lengths_b: Tensor, bandwidth: float, *, across: bool = False) -> float:
    ones = torch.ones_like(lengths_a), torch.ones_like(lengths_b)
    within_a = mean_within(clip_sums(a, lengths_a, a, lengths_a, bandwidth), lengths_a, ones[0], across=across)
    within_b = mean_within(clip_sums(b, lengths_b, b, lengths_b, bandwidth), lengths_b, ones[1], across=across)
    between = mean_between(clip_sums(a, lengths_a, b, lengths_b, bandwidth), (lengths_a, lengths_b), ones)
    return within_a + within_b - 2 * between


def test_the_kernel_distance_is_the_explicit_sum_over_windows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("codecdiff_eval.metrics.kad.VECTORS_AT_ONCE", 7)
    (a, lengths_a), (b, lengths_b) = clips(9, seed=0), clips(6, seed=1)
    b = b + 1000  # far from the origin nothing is lost
    a = a + 1000.5
    assert mmd(a, lengths_a, b, lengths_b, 1.3) == pytest.approx(mmd_by_sums(a, b, 1.3), abs=1e-10)


def test_across_clips_only_windows_of_different_clips_are_paired():
    x, lengths = clips(7, seed=0)
    owner = torch.arange(7).repeat_interleave(lengths).tolist()
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if owner[i] != owner[j]]
    expected = sum(kernel(x[i], x[j], 0.8) for i, j in pairs) / len(pairs)
    sums = clip_sums(x, lengths, x, lengths, 0.8)
    assert mean_within(sums, lengths, torch.ones(7), across=True) == pytest.approx(expected, rel=1e-12)


def test_a_clip_drawn_twice_weighs_twice_and_is_no_pair_with_itself():
    x, lengths = clips(5, seed=0)
    counts = torch.tensor([2, 0, 1, 1, 1])
    owner = torch.arange(5).repeat_interleave(lengths).tolist()
    weigh = [
        (int(counts[owner[i]] * counts[owner[j]]), kernel(x[i], x[j], 1.0))
        for i in range(len(x))
        for j in range(len(x))
        if owner[i] != owner[j]
    ]
    expected = sum(w * k for w, k in weigh) / sum(w for w, _ in weigh)
    sums = clip_sums(x, lengths, x, lengths, 1.0)
    assert mean_within(sums, lengths, counts, across=True) == pytest.approx(expected, rel=1e-12)


def test_the_kernel_distance_is_zero_in_the_mean_for_one_distribution_and_over_clips_only_where_windows_depend():
    def values(across: bool) -> Tensor:
        def one(seed: int) -> float:
            sets = [
                (draw(12, 4, s)[:, None] + 0.2 * draw(36, 4, s + 1).unflatten(0, (12, 3))) for s in (seed, seed + 2)
            ]
            a, b = (each.flatten(0, 1) for each in sets)
            lengths = torch.full((12,), 3)
            return mmd(a, lengths, b, lengths, 2.0, across=across)

        return torch.tensor([one(4 * i) for i in range(200)])

    standard_errors = lambda v: float(v.mean() / (v.std() / len(v) ** 0.5))  # noqa: E731
    assert abs(standard_errors(values(across=True))) < 3
    assert standard_errors(values(across=False)) > 10


def test_the_median_distance_is_that_of_all_pairs_or_of_a_sample(monkeypatch: pytest.MonkeyPatch):
    x = draw(60, 5, seed=0)
    pairs = sorted(float((x[i] - x[j]).norm()) for i in range(60) for j in range(i))
    assert median_distance(x) == pytest.approx(pairs[(len(pairs) - 1) // 2])
    monkeypatch.setattr("codecdiff_eval.metrics.kad.MEDIAN_VECTORS", 40)
    assert median_distance(x) == median_distance(x)
    assert median_distance(x) == pytest.approx(pairs[len(pairs) // 2], rel=0.1)
    assert median_distance(x) != pairs[(len(pairs) - 1) // 2]
    with pytest.raises(ValueError, match="at least 2 vectors, but got 1"):
        median_distance(x[:1])
    with pytest.raises(ValueError, match="copies of each other, or silent"):
        median_distance(torch.ones(9, 3))


def test_a_kernel_distance_of_a_single_clip_is_refused():
    x, lengths = draw(1, 3, seed=0), torch.ones(1, dtype=torch.long)
    with pytest.raises(ValueError, match="at least 2 clips"):
        mean_within(clip_sums(x, lengths, x, lengths, 1.0), lengths, torch.ones(1), across=True)


def brute_density_coverage(embedded: Tensor, reference: Tensor, k: int) -> tuple[float, float]:
    """Naeem et al. (2020), Eqs. 6 and 7, with sorted lists."""
    radius = [
        sorted(float((y - z).norm()) for j, z in enumerate(reference) if j != i)[k - 1] for i, y in enumerate(reference)
    ]
    held = [[float((x - y).norm()) < r for x in embedded] for y, r in zip(reference, radius, strict=True)]
    return sum(map(sum, held)) / (k * len(embedded)), sum(map(any, held)) / len(reference)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_density_and_coverage_are_the_published_sums(k):
    embedded, reference = 0.7 * draw(25, 4, seed=0) + 0.4, draw(30, 4, seed=1)
    within = inside(embedded, reference, k)
    expected = brute_density_coverage(embedded, reference, k)
    assert (float(point_density(within, k).mean()), covered_fraction(within)) == pytest.approx(expected)


def test_copies_of_the_reference_are_dense_and_cover_it_and_far_points_neither():
    reference = draw(30, 4, seed=0)
    within = inside(reference, reference)
    assert covered_fraction(within) == 1
    assert float(point_density(within).mean()) == pytest.approx(1)  # each ball holds its centre and four others
    far = inside(reference + 100, reference)
    assert covered_fraction(far) == float(point_density(far).mean()) == 0


def test_the_coverage_to_expect_is_the_mean_of_simulations_and_so_is_a_density_of_one():
    n, m = 40, 25
    trials = [inside(draw(m, 3, 2 * i), draw(n, 3, 2 * i + 1), 3) for i in range(400)]
    assert sum(map(covered_fraction, trials)) / 400 == pytest.approx(expected_coverage(n, m, 3), abs=0.01)
    assert sum(float(point_density(t, 3).mean()) for t in trials) / 400 == pytest.approx(1, abs=0.03)


def test_radii_need_more_clips_than_neighbors():
    with pytest.raises(ValueError, match="more than 5 clips of reference, but got 5"):
        radii(draw(5, 2, seed=0))


@pytest.mark.parametrize("outlier", [0.0, 2.0])
def test_an_interval_includes_its_value_where_nearly_all_resamples_are_equal(outlier: float) -> None:
    estimate = centered(1.0, [1.0] * 199 + [outlier])
    assert estimate.low <= 1 <= estimate.high
