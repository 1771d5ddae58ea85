"""Best rates finer than their grid, and the power law that carries them to other sizes."""

import math
import random

import pytest

from src.runs.learning_rate_transfer import refine_best_rate, transfer_rate


def losses(best: float, rates: list[float]) -> list[tuple[float, float]]:
    return [(rate, 1.5 + 0.1 * math.log(rate / best) ** 2) for rate in rates]


def test_the_best_rate_is_between_those_of_the_grid() -> None:
    assert refine_best_rate(losses(2.6e-3, [1e-3, 2e-3, 4e-3, 8e-3])) == pytest.approx(2.6e-3)
    assert refine_best_rate(losses(2.6e-3, [8e-3, 1e-3, 4e-3, 2e-3])) == pytest.approx(2.6e-3), "in any order"


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([(1e-3, 1.5), (2e-3, 1.6), (4e-3, 1.7)], 1e-3),  # at the edge
        ([(1e-3, 1.6), (2e-3, 1.5), (4e-3, math.inf)], 2e-3),  # the next one diverged
        ([(1e-3, 1.6), (2e-3, 1.5)], 2e-3),
        ([(1e-3, 1.5), (2e-3, 1.5), (4e-3, 1.5)], 1e-3),  # flat
    ],
)
def test_without_neighbors_it_is_the_rate_of_the_best_trial(trials: list[tuple[float, float]], best: float) -> None:
    assert refine_best_rate(trials) == best


def test_the_law_is_recovered_and_its_error_has_its_size() -> None:
    exact = transfer_rate([(n, 0.3 * n**-0.25) for n in (1e5, 4e5, 8e5)], 6.4e6)
    assert exact.learning_rate == pytest.approx(0.3 * 6.4e6**-0.25, rel=5e-3)
    assert exact.exponent == pytest.approx(0.25) and exact.factor == pytest.approx(1)
    assert transfer_rate([(1e5, 4e-3), (4e5, 2e-3)], 1.6e6) == (1e-3, None, pytest.approx(0.5))
    draw, inside = random.Random(0), 0
    for _ in range(400):
        sizes = [10 ** (5 + 0.3 * index) for index in range(6)]
        found = transfer_rate([(n, 0.3 * n**-0.25 * math.exp(draw.gauss(0, 0.1))) for n in sizes], 1e8)
        assert found.factor is not None
        inside += abs(math.log(found.learning_rate / (0.3 * 1e8**-0.25))) <= 2.78 * math.log(found.factor)
    assert 0.92 <= inside / 400 <= 0.98, "2.78: Student's t of four degrees of freedom"
