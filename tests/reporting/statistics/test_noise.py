"""A probe is noise unless some mean over seeds is large, and larger than its seeds explain."""

import random

from src.reporting.statistics.noise import is_noise


def draw_points(mean: float, seed: int, spread: float = 0.05) -> list[list[list[float]]]:
    """Draw three seeds of four architectures at five distances; the first architecture has a mean of its own."""
    draw = random.Random(seed)
    return [[[draw.gauss(mean if a == 0 else 0.0, spread) for _ in range(3)] for a in range(4)] for _ in range(5)]


def test_values_around_zero_are_noise():
    assert sum(is_noise(draw_points(0.0, seed), 0.05) for seed in range(100)) >= 95


def test_an_ability_is_not_noise_although_its_seeds_vary():
    assert not any(is_noise(draw_points(1.0, seed, 0.3), 0.05) for seed in range(20))


def test_a_tiny_saving_is_noise_however_exact():
    points = [[[0.010, 0.0101, 0.0099], [0.0, 0.0001, -0.0001]]]
    assert is_noise(points, 0.05) and not is_noise(points, 0.001)


def test_single_seeds_have_no_known_noise():
    assert not is_noise([[[0.0], [0.01]]], 0.05) and not is_noise([[[0.0, 0.01], [0.01, 0.0]]], 0.05)
    assert not is_noise([], 0.05)


def test_seeds_without_any_spread_are_judged():
    assert not is_noise([[[1.0] * 5]], 0.05) and is_noise([[[0.0] * 5]], 0.05)
