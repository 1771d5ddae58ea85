import math
import random
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from src.reporting.statistics.sample_size import POWER, power, seeds_needed
from src.reporting.statistics.significance import (
    Comparison,
    compare_architectures,
    compare_stages,
    correct_for_headlines,
    find_unstable,
    mean_and_half_width,
    tukey_critical,
)

FOUR = {
    "dense": [1.559, 1.558, 1.568],
    "mamba": [1.449, 1.464, 1.454],
    "moe": [1.599, 1.575, 1.584],
    "hybrid": [1.416, 1.417, 1.406],
}
SEARCHED = {
    "dense": [1.532, 1.610, 1.761],
    "mamba": [1.405, 1.452, 1.404],
    "moe": [1.599, 1.575, 1.584],
    "hybrid": [1.364, 1.351, 1.350],
    "mamba1": [1.354, 1.362, 1.529],
    "gated_deltanet": [1.420, 1.435, 1.450],
}


def draw(means: dict[str, float], n: int, seed: int = 0, spread: float = 1.0) -> dict[str, list[float]]:
    generator = random.Random(seed)
    return {name: [generator.gauss(mean, spread) for _ in range(n)] for name, mean in means.items()}


def test_best_uses_the_largest_p_of_welch_tests() -> None:
    found = compare_architectures(FOUR)
    assert found.leader == "hybrid" and list(found.stable) == ["hybrid", "mamba", "dense", "moe"]
    others = [FOUR[name] for name in ("mamba", "dense", "moe")]
    p_values = [stats.ttest_ind(FOUR["hybrid"], seeds, equal_var=False)[1] for seeds in others]
    assert found.p_best == pytest.approx(np.max(p_values)) and found.p_best < 0.05


@pytest.mark.parametrize("n_headlines", [1, 2])
def test_intervals_equal_the_wider_of_two_scipy_intervals(n_headlines: int) -> None:
    found = compare_architectures({name: FOUR[name] for name in ("dense", "moe", "hybrid")}, n_headlines)
    samples = list(found.stable.values())
    intervals = [
        stats.tukey_hsd(*samples, equal_var=equal).confidence_interval(1 - 0.05 / n_headlines)
        for equal in (True, False)
    ]
    place = {name: index for index, name in enumerate(found.stable)}
    for pair in found.pairs:
        i, j = place[pair.better], place[pair.other]
        half = max(float(each.high[i, j] - each.low[i, j]) / 2 for each in intervals)
        assert half * 0.999 < pair.half_width < 1.15 * half, "degrees of freedom are rounded down"
        assert pair.difference == pytest.approx(fmean(samples[j]) - fmean(samples[i]))


def test_more_headlines_widen_the_intervals() -> None:
    one, six = (compare_architectures(FOUR, n).pairs for n in (1, 6))
    assert all(wide.half_width > 1.2 * narrow.half_width for narrow, wide in zip(one, six, strict=True))


def test_all_pairs_significant_implies_best() -> None:
    for seed in range(40):
        found = compare_architectures(draw({"a": 0, "b": 8, "c": 9}, 3, seed))
        if all(pair.is_significant for pair in found.behind_leader()):
            assert found.p_best < 0.05


def test_unequal_numbers_of_seeds_are_accepted() -> None:
    values = {**FOUR, "hybrid": [*FOUR["hybrid"], 1.410, 1.412]}
    found = compare_architectures(values)
    samples = list(found.stable.values())
    interval = stats.tukey_hsd(*samples).confidence_interval(0.95)
    assert found.pairs[0].half_width >= 0.999 * float(interval.high[0, 1] - interval.low[0, 1]) / 2


def test_two_unstable_architectures_are_found() -> None:
    assert find_unstable(SEARCHED) == {"dense", "mamba1"}
    found = compare_architectures(SEARCHED)
    assert found.unstable == {"dense": [1.532, 1.610, 1.761], "mamba1": [1.354, 1.362, 1.529]}
    assert not {"dense", "mamba1"} & {name for pair in found.pairs for name in (pair.better, pair.other)}


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_split_is_found_with_any_number_of_seeds_on_either_side(n: int) -> None:
    values = draw(dict.fromkeys("abc", 0.0), n)
    for n_fallen in (1, n - 1):
        ordinary = draw({"d": 0.0}, n, 1)["d"]
        split = [value + 25 * (index < n_fallen) for index, value in enumerate(ordinary)]
        assert find_unstable({**values, "d": split}) == {"d"}
        assert find_unstable({**values, "d": ordinary}) == set()


def test_a_wide_spread_without_a_split_is_not_called_unstable() -> None:
    values = draw(dict.fromkeys("abc", 0.0), 10)
    assert find_unstable({**values, "d": [4.0 * step for step in range(10)]}) == set()


def test_two_architectures_are_never_unstable() -> None:
    assert find_unstable({"a": [0, 0.1, 9], "b": [0, 0.1, 0.2]}) == set()


def test_unstable_in_one_stage_is_unstable_in_all() -> None:
    later = {name: [value + 1 for value in FOUR.get(name, SEARCHED[name])] for name in SEARCHED}
    later["mamba1"] = [2.41, 2.42, 2.43]
    assert find_unstable(later) == set()
    assert [set(found.unstable) for found in compare_stages([SEARCHED, later], 2)] == [{"dense", "mamba1"}] * 2
    assert [set(found.unstable) for found in compare_stages([later], 1)] == [set()]


def test_equal_seeds_are_neither_best_nor_an_error() -> None:
    same = compare_architectures({"a": [1.0] * 3, "b": [1.0] * 3})
    assert same.p_best == 1.0 and not same.pairs[0].is_significant
    apart = compare_architectures({"a": [1.0] * 3, "b": [2.0] * 3})
    assert apart.p_best == 0.0 and apart.pairs[0].is_significant


def test_the_largest_accepted_numbers_do_not_overflow() -> None:
    found = compare_architectures({"a": [1e150, -1e150, 0.0], "b": [1.0, 2.0, 3.0], "c": [0.0, 0.0, 1e150]})
    assert math.isfinite(found.p_best) and not any(pair.is_significant for pair in found.pairs)


def with_p(*p_values: float, unstable: tuple[int, ...] = ()) -> list[Comparison]:
    return [Comparison({"a": []}, {"x": []} if index in unstable else {}, p, []) for index, p in enumerate(p_values)]


def test_headlines_are_corrected_by_hochberg() -> None:
    assert correct_for_headlines(with_p(0.01)) == [0.01]
    assert correct_for_headlines(with_p(0.04, 0.01, 0.045)) == pytest.approx([0.045, 0.03, 0.045])
    assert correct_for_headlines(with_p(0.2, 0.01)) == pytest.approx([0.2, 0.02])


def test_headlines_with_unstable_architectures_do_not_relax_the_correction() -> None:
    assert correct_for_headlines(with_p(0.0001, 0.03, unstable=(0,))) == pytest.approx([0.0002, 0.06])
    assert correct_for_headlines(with_p(0.6, 0.02, 0.02, unstable=(0,))) == pytest.approx([1.0, 0.04, 0.04])


def test_equivalence_needs_the_interval_within_the_margin() -> None:
    close = compare_architectures(draw({"a": 0.0, "b": 0.0}, 40, spread=0.01)).pairs[0]
    assert close.is_equivalent(0.02) and not close.is_equivalent(0.003)
    assert not compare_architectures(FOUR).pairs[0].is_equivalent(0.02), "a significant difference of 0.043"


def test_the_power_equals_that_of_a_simulation() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 5, 20_000))
    p_values = np.asarray(stats.ttest_ind(first, second + 2, axis=0))[1]
    assert power(5, 2.0, 1.0) == pytest.approx(np.mean(p_values < 0.05), abs=0.01)


def test_seeds_needed_is_the_smallest_number_with_the_power() -> None:
    n = seeds_needed(0.02, 0.01)
    assert n is not None and power(n, 0.02, 0.01) >= POWER > power(n - 1, 0.02, 0.01)
    more = seeds_needed(0.02, 0.01, 6)
    assert more is not None and more > n
    assert seeds_needed(1e-6, 1.0) is None and seeds_needed(0.02, 0.0) == 2


def test_critical_values_round_degrees_of_freedom_down() -> None:
    assert tukey_critical(0.05, 2, 4.2) == tukey_critical(0.05, 2, 4.0) == pytest.approx(stats.t.ppf(0.975, 4))
    assert tukey_critical(0.05, 4, 8.9) == tukey_critical(0.05, 4, 8)


def test_the_interval_of_a_mean_needs_three_values() -> None:
    assert mean_and_half_width([1.0, 3.0]) == (2.0, None)
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.3027 / 3**0.5, abs=1e-3)


def test_the_interval_of_a_mean_covers_it_in_about_95_of_100() -> None:
    hits = 0
    for seed in range(400):
        mean, half = mean_and_half_width(draw({"a": 5.0}, 3, seed, 2.0)["a"])
        assert half is not None
        hits += abs(mean - 5) <= half
    assert 365 <= hits <= 395
