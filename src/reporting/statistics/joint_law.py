"""How loss falls with size and budget together: L(N, D) = E + A / N^alpha + B / D^beta, for each architecture.

N: active parameters without embeddings. D: training tokens. L: bits per byte; E is what no model can learn, the entropy
of the text, which is known for generated text. Fitted by the sum of Huber losses of log L (Hoffmann et al., 2022, arXiv
2203.15556, approach 3) from many starts; their mean in place of the sum stopped the optimizer early, and gave intervals
that were far too narrow (Besiroglu et al., 2024, arXiv 2404.10102).

Uncertainty is a bootstrap: each draw resamples the seeds of every point of the ladder, flips the sign of the point's
own deviation from the law at random (a wild bootstrap; Wu, 1986), and fits again. A predicted run deviates from its
law as the runs of the ladder do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.reporting.data.json_values import Record
from src.reporting.data.runs import branches_of, split_of, stage_names, to_records
from src.reporting.data.shared_results import shared
from src.reporting.statistics.significance import LEVEL

HUBER_DELTA = 1e-3
"""Deviation of log L from which it counts linearly: about the noise between seeds."""
DRAWS = 300
MIN_POINTS = 9
"""Different sizes and budgets together: five numbers are fitted, and six points fit some law exactly."""
MIN_DISTINCT = 3
"""Different sizes, and different budgets: two show no curvature, and thus no entropy."""
STARTS = tuple(product((0.15, 0.4, 0.8), (0.15, 0.4, 0.8), (0.3, 0.6, 0.9)))
"""alpha, beta, and E as a share of the lowest loss."""
N_PARAMETERS = 5
LOWER, UPPER = np.array([-20.0, -20.0, 0.0, -20.0, 0.0]), np.array([5.0, 5.0, 2.0, 5.0, 2.0])
"""Of the parameters: loss grows with neither size nor budget."""
MAX_ITERATIONS = 200


class Point(NamedTuple):
    """One result of a ladder."""

    params: float
    """Active, without embeddings."""
    tokens: float
    """Trained on, with those that a branch shares with its origin."""
    loss: float
    """In bits per byte."""


class Prediction(NamedTuple):
    """The loss of one run that was not made, in bits per byte."""

    loss: float
    low: float
    high: float
    """Of the 95% interval, with the noise of a run around the law."""


@dataclass(frozen=True)
class JointLaw:
    """The law of one architecture."""

    architecture: str
    points: tuple[Point, ...]
    parameters: np.ndarray
    """(1 + DRAWS, 5) log E, log A', alpha, log B', beta; A' and B' are the terms at `center`. First the fit itself."""
    center: tuple[float, float]
    """Means of log N and log D."""
    noise: float
    """Standard deviation of log L of a run around the law: of its seed, and of what the law does not describe."""
    is_entropy_known: bool
    """Whether E was given."""

    def losses(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """Return the loss by the fit, of numbers or arrays that broadcast."""
        x, y = np.broadcast_arrays(np.log(params) - self.center[0], np.log(tokens) - self.center[1])
        return np.exp(_log_loss(self.parameters[0], x.ravel(), y.ravel())).reshape(x.shape)

    def draws(self, params: float, tokens: float) -> np.ndarray:
        """Return the loss by the fit and by each draw, (1 + DRAWS,)."""
        x = np.log(params) - self.center[0], np.log(tokens) - self.center[1]
        return np.exp(_log_loss(self.parameters, np.array([x[0]]), np.array([x[1]])))[:, 0]

    def predict(self, params: float, tokens: float) -> Prediction:
        """Predict a run of this size and budget."""
        low, high = np.quantile(self.runs(params, tokens, np.random.default_rng(0)), (LEVEL / 2, 1 - LEVEL / 2))
        return Prediction(float(self.losses(params, tokens)), float(low), float(high))

    def runs(self, params: float, tokens: float, generator: np.random.Generator) -> np.ndarray:
        """Return the loss of a run by each draw of the law, with its noise around the law, (DRAWS,)."""
        return self.draws(params, tokens)[1:] * np.exp(self.noise * generator.standard_normal(DRAWS))

    @property
    def entropy(self) -> float:
        """E, in bits per byte."""
        return float(np.exp(self.parameters[0, 0]))

    @property
    def exponents(self) -> tuple[float, float]:
        """alpha and beta."""
        return float(self.parameters[0, 2]), float(self.parameters[0, 4])


@shared
def fit_joint_laws(runs: pd.DataFrame, entropy: float | None = None) -> list[JointLaw]:
    """Fit a law to each architecture whose finished runs have sizes and budgets enough.

    The budgets are the first stage and its branches (`stage=language_budgets`). entropy: E in bits per byte if it is
    known; that of generated text is read from the runs.
    """
    laws: list[JointLaw] = []
    for architecture, points in points_of(runs).items():
        if is_enough(points):
            known = _entropy_of(runs, architecture) if entropy is None else entropy
            laws.append(fit_joint_law(architecture, points, known))
    return laws


def points_of(runs: pd.DataFrame) -> dict[str, list[Point]]:
    """Return the results of each architecture's finished runs: of the first stage and its branches."""
    records, names = _finished(runs), stage_names(runs)
    if not records or not names:
        return {}
    first, split, found = names[0], split_of(records, names[:1]), dict[str, list[Point]]()
    for record in records:
        for stage in (first, *branches_of(runs).get(first, [])):
            tokens, loss = record.get(f"{stage}/tokens"), record.get(f"{stage}/{split}_bits_per_byte")
            if tokens and loss:
                point = Point(float(record["active_non_embedding_params"]), float(tokens), float(loss))
                found.setdefault(str(record["architecture"]), []).append(point)
    return found


def _entropy_of(runs: pd.DataFrame, architecture: str) -> float | None:
    """Return the entropy of generated text in bits per byte; None for other text."""
    floor = f"{stage_names(runs)[0]}/floor_bits_per_byte"
    found = {record.get(floor) for record in _finished(runs) if record["architecture"] == architecture}
    return next(iter(found)) if len(found) == 1 else None


def _finished(runs: pd.DataFrame) -> list[Record]:
    return [record for record in to_records(runs) if record["status"] == "done"]


def is_enough(points: Sequence[Point]) -> bool:
    """Return whether a law can be fitted."""
    distinct = {point[:2] for point in points}
    sizes, budgets = ({point[axis] for point in distinct} for axis in (0, 1))
    return len(distinct) >= MIN_POINTS and min(len(sizes), len(budgets)) >= MIN_DISTINCT


def fit_joint_law(architecture: str, points: Sequence[Point], entropy: float | None = None) -> JointLaw:
    """Fit the law, and draws of it for intervals. Points of equal size and budget count as seeds of one."""
    n, d, loss = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    x, y, log_loss = np.log(n), np.log(d), np.log(loss)
    center = float(x.mean()), float(y.mean())
    x, y = x - center[0], y - center[1]
    log_entropy = None if entropy is None else float(np.log(entropy))
    starts = _starts(loss, log_entropy)
    tried, values = _minimize(starts, x, y, np.tile(log_loss, (len(starts), 1)), log_entropy)
    best = tried[int(np.argmin(values))]
    law, cells = _log_loss(best, x, y), _cells(points)
    means = np.array([log_loss[cell].mean() for cell in cells])
    n_fitted = N_PARAMETERS - (entropy is not None)
    noise = float(np.sqrt(((log_loss - law) ** 2).sum() / max(1, len(points) - n_fitted)))
    generator, again = np.random.default_rng(0), np.tile(law, (DRAWS, 1))
    # A fit of k numbers makes deviations smaller by sqrt(1 - k / n), a mean of m seeds those within by sqrt(1 - 1 / m).
    scale = np.sqrt(len(cells) / max(1, len(cells) - n_fitted))
    for cell, mean in zip(cells, means, strict=True):
        seeds = generator.choice(log_loss[cell] - mean, (DRAWS, len(cell))) * np.sqrt(len(cell) / max(1, len(cell) - 1))
        signs = generator.choice((-1.0, 1.0), (DRAWS, 1))
        again[:, cell] += signs * scale * (mean - law[cell].mean()) + seeds
    drawn, _ = _minimize(np.tile(best, (DRAWS, 1)), x, y, again, log_entropy)
    return JointLaw(
        architecture, tuple(points), np.concatenate([best[None], drawn]), center, noise, entropy is not None
    )


def left_out_error(law: JointLaw) -> float | None:
    """Return the relative error at the largest size of the law fitted without it; None if too little is left.

    It is how far the law missed when it last extrapolated: positive where the prediction was too high.
    """
    largest = max(point.params for point in law.points)
    smaller = [point for point in law.points if point.params < largest]
    if not is_enough(smaller):
        return None
    left = fit_joint_law(law.architecture, smaller, law.entropy if law.is_entropy_known else None)
    above = [point for point in law.points if point.params == largest]
    errors = [left.losses(point.params, point.tokens) / point.loss - 1 for point in above]
    return float(max(errors, key=abs))


def _cells(points: Sequence[Point]) -> list[np.ndarray]:
    """Group the indices of points of equal size and budget."""
    found: dict[tuple[float, float], list[int]] = {}
    for index, point in enumerate(points):
        found.setdefault((point.params, point.tokens), []).append(index)
    return [np.array(indices) for indices in found.values()]


def _starts(loss: np.ndarray, log_entropy: float | None) -> np.ndarray:
    """Return the first guesses, (n, 5)."""
    found: list[list[float]] = []
    for alpha, beta, share in STARTS:
        floor = share * loss.min() if log_entropy is None else np.exp(log_entropy)
        rest = float(np.log(max(1e-6, (loss.mean() - floor) / 2)))
        found.append([float(np.log(floor)), rest, alpha, rest, beta])
    return np.array(found)


def _terms(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the logarithms of the three terms, (3, ..., points), of theta (..., 5) at centered log N and log D."""
    log_e, log_a, alpha, log_b, beta = (theta[..., index, None] for index in range(N_PARAMETERS))
    return np.stack([log_e + 0 * x, log_a - alpha * x, log_b - beta * y])


def _log_loss(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return log L, (..., points)."""
    return np.logaddexp.reduce(_terms(theta, x, y))


def _huber(rest: np.ndarray) -> np.ndarray:
    """Return the Huber loss of deviations in units of its delta, summed over points."""
    size = np.abs(rest)
    return np.where(size <= 1, size**2 / 2, size - 0.5).sum(axis=-1)


def _minimize(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, log_loss: np.ndarray, log_entropy: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters at minima of the Huber loss, and its values, for many fits at once.

    Levenberg-Marquardt with the weights of Huber's loss, 1 / max(1, deviation), as scipy's least_squares does for one
    fit; hundreds of fits, one after the other, take a minute with it. theta: (n, 5). log_loss: (n, points).
    """
    free = np.array([log_entropy is None, True, True, True, True])
    damping = np.full(len(theta), 1e-2)
    theta = theta.copy()
    rest = (_log_loss(theta, x, y) - log_loss) / HUBER_DELTA
    value = _huber(rest)
    for _ in range(MAX_ITERATIONS):
        terms = _terms(theta, x, y)
        share = np.exp(terms - np.logaddexp.reduce(terms))
        slopes = np.stack([share[0], share[1], -share[1] * x, share[2], -share[2] * y], axis=-1) / HUBER_DELTA
        weighted = slopes * (1 / np.maximum(1, np.abs(rest)))[..., None]
        curvature = np.swapaxes(weighted, -1, -2) @ slopes
        gradient = (weighted * rest[..., None]).sum(axis=-2)
        diagonal = np.einsum("nii->ni", curvature)
        damped = curvature + np.eye(N_PARAMETERS) * (damping[:, None] * diagonal + 1e-9 * diagonal.max())[..., None]
        step = np.zeros_like(theta)
        step[:, free] = np.linalg.solve(damped[:, free][:, :, free], gradient[:, free, None])[..., 0]
        tried = np.clip(theta - step, LOWER, UPPER)
        new_rest = (_log_loss(tried, x, y) - log_loss) / HUBER_DELTA
        new_value = _huber(new_rest)
        is_lower = new_value < value
        gain = float(np.max(np.where(is_lower, value - new_value, 0)))
        theta, rest = np.where(is_lower[:, None], tried, theta), np.where(is_lower[:, None], new_rest, rest)
        value = np.where(is_lower, new_value, value)
        damping = np.clip(np.where(is_lower, damping / 4, damping * 4), 1e-9, 1e9)
        if gain < 1e-9 and damping.min() > 1:
            break
    return theta, value
