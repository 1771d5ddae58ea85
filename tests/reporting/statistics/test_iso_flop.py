"""The best size for equal FLOPs: by a parabola through exact results it is near that of the law they come from."""

import numpy as np
import pytest

from src.reporting.statistics.iso_flop import best_size, flops_per_token
from src.reporting.statistics.joint_law import JointLaw, Point, fit_laws

SIZES, BUDGETS = (1e5, 2e5, 4e5, 8e5), (2.5e5, 5e5, 1e6, 2e6, 4e6)


def six_per_parameter(params: np.ndarray) -> np.ndarray:
    return 6 * params


def law_of(alpha: float, sizes: tuple[float, ...] = SIZES, budgets: tuple[float, ...] = BUDGETS) -> JointLaw:
    points = [Point(n, d, 0.5 + 20 * n**-alpha + 40 * d**-0.3) for n in sizes for d in budgets]
    return fit_laws({"dense": points}, entropy=0.5)[0]


def test_both_estimates_agree_on_exact_results() -> None:
    found = best_size(law_of(0.28), six_per_parameter)
    assert found is not None and found.by_parabola is not None and found.by_law is not None
    assert found.flops == pytest.approx(np.sqrt(6 * 8e5 * 2.5e5 * 6 * 1e5 * 4e6)), "the middle of what all sizes have"
    # Where alpha A N^-alpha = beta B D^-beta with D = C / 6N.
    n = np.geomspace(SIZES[0], SIZES[-1], 100_000)
    exact = n[np.abs(0.28 * 20 * n**-0.28 - 0.3 * 40 * (found.flops / 6 / n) ** -0.3).argmin()]
    assert found.by_law.params == pytest.approx(exact, rel=0.02)
    assert found.by_parabola.params == pytest.approx(exact, rel=0.15)
    for size in (found.by_law, found.by_parabola):
        assert 6 * size.params * size.tokens == pytest.approx(found.flops)


def test_a_lowest_loss_at_the_end_of_the_ladder_is_no_best_size() -> None:
    found = best_size(law_of(0.9), six_per_parameter)  # size brings nothing: the smallest is best
    assert found is not None and found.by_parabola is None and found.by_law is None


def test_sizes_without_common_flops_have_none() -> None:
    assert best_size(law_of(0.3, (1e5, 1e6, 1e7), (1e6, 1.5e6, 2e6)), six_per_parameter) is None


def test_flops_per_token_are_a_power_law_through_the_sizes() -> None:
    records = [
        {"architecture": "dense", "active_non_embedding_params": n, "train_flops_per_token": 7 * n**1.1} for n in SIZES
    ]
    records.append({"architecture": "mamba", "active_non_embedding_params": 1e5, "train_flops_per_token": 1.0})
    assert float(flops_per_token(records, "dense")(np.array(3e5))) == pytest.approx(7 * 3e5**1.1)
