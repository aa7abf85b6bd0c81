"""No minute holds more requests or tokens than allowed, on a clock of the test's own."""

from __future__ import annotations

import pytest
from codecdiff_datasets.captioners.chat_server import RateLimit


def busiest(begins: list[float], weights: list[int]) -> int:
    """Give the most that any minute holds that begins with a request."""
    return max(
        sum(weight for other, weight in zip(begins, weights, strict=True) if 0 <= other - begin < 60 - 1e-6)
        for begin in begins
    )


@pytest.mark.parametrize("arrivals", [[0.0] * 90, [0.1 * i for i in range(90)], [7.0 * i for i in range(90)]])
def test_no_minute_holds_more_requests_than_allowed(arrivals: list[float]) -> None:
    limit = RateLimit(requests=20)
    begins = [limit.reserve(1, now) for now in arrivals]
    assert busiest(begins, [1] * 90) <= 20
    assert all(begin >= now for begin, now in zip(begins, arrivals, strict=True))
    assert begins[-1] <= max(arrivals[-1], 89 * 3) + 1e-6  # and no slower than that


def test_no_minute_holds_more_tokens_than_allowed() -> None:
    limit = RateLimit(tokens=1000)
    sizes = [100 + 50 * (i % 5) for i in range(60)]
    begins = [limit.reserve(size, 0) for size in sizes]
    assert busiest(begins, sizes) <= 1000 + max(sizes)  # the last of a minute may reach into the next
    assert begins[-1] == pytest.approx(sum(sizes[:-1]) * 60 / 1000)


def test_without_limits_nobody_waits_but_for_the_server() -> None:
    limit = RateLimit()
    assert [limit.reserve(10**6, now) for now in (0, 0, 5)] == [0, 0, 5]
    limit.hold(9)
    limit.hold(3)
    assert [limit.opens(5), limit.opens(12)] == [9, 12]
