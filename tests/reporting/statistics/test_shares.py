"""Intervals of shares stay between 0 and 1, and cover seeds that vary."""

import pytest
from scipy.stats import binomtest

from src.reporting.statistics.shares import design_effect, share_interval


@pytest.mark.parametrize(("hits", "n"), [(0, 32), (7, 32), (32, 32), (1, 2)])
def test_one_seed_has_the_interval_of_wilson(hits, n):
    share, low, high = share_interval([hits], [n])
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert share == hits / n and (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_seeds_that_vary_widen_the_interval():
    _, low, high = share_interval([0, 10, 20], [32, 32, 32])
    _, alike_low, alike_high = share_interval([10, 10, 10], [32, 32, 32])
    assert design_effect([10, 10, 10], [32, 32, 32]) == 1 and design_effect([0, 10, 20], [32, 32, 32]) > 10
    assert low < alike_low < alike_high < high


@pytest.mark.parametrize("hits", [[0, 0, 0], [32, 32, 32], [0, 0, 7], [1, 32, 32]])
def test_an_interval_stays_between_0_and_1(hits):
    share, low, high = share_interval(hits, [32] * 3)
    assert 0 <= low <= share <= high <= 1 and high - low > 0.01
