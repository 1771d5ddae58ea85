"""The law of loss by size and budget: fitted as scipy fits it, with intervals that hold what was not run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from src.reporting import load_runs
from src.reporting.statistics.joint_law import (
    HUBER_DELTA,
    Point,
    fit_joint_laws,
    fit_laws,
    is_enough,
    left_out_errors,
)
from tests.ladders import write_ladder

SIZES, BUDGETS = (1e5, 3e5, 8e5, 2e6), (5, 20, 80)
HELD_OUT = ((6e6, 6e7), (6e6, 2.4e8), (2e7, 4e8))


def loss_of(n: float, d: float) -> float:
    return 0.8 + 60 / n**0.4 + 130 / d**0.37


def bent_loss_of(n: float, d: float) -> float:
    """Return a loss for which size matters more where there are more tokens."""
    return 0.5 + (120 / n**0.4 + 4000 / d**0.6) ** 0.4


def ladder(
    generator: np.random.Generator,
    noise: float,
    sizes: tuple[float, ...] = SIZES,
    loss: Callable[[float, float], float] = loss_of,
) -> list[Point]:
    return [
        Point(n, n * each, loss(n, n * each) * np.exp(noise * generator.standard_normal()))
        for n in sizes
        for each in BUDGETS
        for _ in range(3)
    ]


def test_the_fit_is_that_of_scipy() -> None:
    points = ladder(np.random.default_rng(1), 0.004)
    law = fit_laws({"dense": points})[0]
    n, d, loss = (np.array(values) for values in zip(*points, strict=True))

    def rest(theta: np.ndarray) -> np.ndarray:
        e, a, alpha, b, beta, gamma = theta
        return np.log(np.exp(e) + (np.exp(a) / n**alpha + np.exp(b) / d**beta) ** gamma) - np.log(loss)

    start = np.log(0.8), np.log(60), 0.4, np.log(130), 0.37, 1.0
    theirs = least_squares(rest, start, loss="huber", f_scale=HUBER_DELTA, x_scale="jac", xtol=1e-12, ftol=1e-14).x
    assert law.entropy == pytest.approx(np.exp(theirs[0]), rel=1e-3)
    assert law.exponents == pytest.approx((theirs[2], theirs[4], theirs[5]), rel=1e-3)


def test_without_noise_the_law_is_recovered() -> None:
    law = fit_laws({"dense": ladder(np.random.default_rng(0), 0.0)})[0]
    assert law.entropy == pytest.approx(0.8, rel=1e-3) and law.exponents == pytest.approx((0.4, 0.37, 1.0), rel=1e-2)
    assert law.noise == pytest.approx(0, abs=1e-6) and law.predict(2e7, 4e8).loss == pytest.approx(
        loss_of(2e7, 4e8), rel=1e-4
    )


def test_a_size_that_matters_more_with_more_tokens_is_described() -> None:
    points = [Point(n, n * each, bent_loss_of(n, n * each)) for n in SIZES for each in BUDGETS]
    law = fit_laws({"dense": points})[0]
    assert law.exponents == pytest.approx((0.4, 0.6, 0.4), rel=1e-2)
    assert law.predict(2e7, 4e8).loss == pytest.approx(bent_loss_of(2e7, 4e8), rel=1e-3)


def test_the_noise_is_that_of_all_laws() -> None:
    generator = np.random.default_rng(4)
    laws = fit_laws({"dense": ladder(generator, 0.002), "mamba": ladder(generator, 0.006)})
    assert laws[0].noise == laws[1].noise == pytest.approx((0.5 * (0.002**2 + 0.006**2)) ** 0.5, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("true_loss", [loss_of, bent_loss_of])
def test_intervals_hold_the_losses_of_runs_that_were_not_made(true_loss: Callable[[float, float], float]) -> None:
    inside, errors, widths = 0, [], []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        law = fit_laws({"dense": ladder(generator, 0.004, loss=true_loss)})[0]
        for n, d in HELD_OUT:
            found, true = law.predict(n, d), true_loss(n, d)
            inside += found.low <= true * np.exp(0.004 * generator.standard_normal()) <= found.high
            errors.append(abs(found.loss / true - 1))
            widths.append((found.high - found.low) / true)
    assert inside >= 27, "9 in 10"
    assert np.mean(errors) < 0.01 and np.mean(widths) < 0.06


def test_architectures_share_the_entropy_of_their_text() -> None:
    generator = np.random.default_rng(3)
    dense, worse = ladder(generator, 0.004), ladder(generator, 0.004)
    mamba = [point._replace(loss=point.loss - 0.3 * (point.loss - 0.8)) for point in worse]
    laws = fit_laws({"dense": dense, "mamba": mamba})
    assert laws[0].entropy == laws[1].entropy == pytest.approx(0.8, abs=0.05)
    assert np.array_equal(laws[0].parameters[:, 0], laws[1].parameters[:, 0]), "in each draw"
    alone = fit_laws({"dense": dense})[0].predict(1e9, 2e10)
    assert laws[0].predict(1e9, 2e10).high - laws[0].predict(1e9, 2e10).low < alone.high - alone.low


@pytest.mark.slow
def test_a_known_entropy_is_kept_and_narrows_the_interval() -> None:
    points = ladder(np.random.default_rng(2), 0.004)
    free, known = fit_laws({"dense": points})[0], fit_laws({"dense": points}, entropy=0.8)[0]
    assert known.entropy == pytest.approx(0.8) and np.allclose(known.parameters[:, 0], np.log(0.8))
    spread = [law.predict(1e9, 2e10) for law in (free, known)]
    assert spread[1].high - spread[1].low < spread[0].high - spread[0].low
    assert known.predict(1e15, 2e16).low == pytest.approx(0.8, abs=1e-9), "no run is below it"


@pytest.mark.slow
def test_the_left_out_size_shows_a_law_that_does_not_hold() -> None:
    points = ladder(np.random.default_rng(3), 0.002)
    error = left_out_errors(fit_laws({"dense": points}))["dense"]
    assert error is not None and abs(error) < 0.02
    worse = [point._replace(loss=point.loss * 1.1) if point.params == SIZES[-1] else point for point in points]
    error = left_out_errors(fit_laws({"dense": worse}))["dense"]
    assert error is not None and error < -0.05, "the prediction was too low"


def test_too_few_points_make_no_law() -> None:
    assert is_enough(ladder(np.random.default_rng(0), 0.0, SIZES[:3]))
    assert not is_enough(ladder(np.random.default_rng(0), 0.0, SIZES[:2]))
    assert left_out_errors(fit_laws({"dense": ladder(np.random.default_rng(0), 0.0, SIZES[:3])}))["dense"] is None


def test_a_ladder_is_read_from_runs_with_their_branches(tmp_path: Path) -> None:
    laws = fit_joint_laws(load_runs(write_ladder(tmp_path / "outputs")))
    assert [law.architecture for law in laws] == ["dense", "mamba"]
    assert len(laws[0].points) == 4 * 3 * 2 and laws[0].noise > 0
    assert {round(point.tokens / point.params) for point in laws[0].points} == {80, 20, 5}
