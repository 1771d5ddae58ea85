"""How loss falls with size and budget together: L(N, D) = E + (A / N^alpha + B / D^beta)^gamma, for each architecture.

N: active parameters without embeddings. D: training tokens. L: bits per byte. E is the entropy of the text where that
is known, of generated text. Otherwise it is fitted, one for all architectures, and is where the losses level off, which
need not be the entropy. With gamma below 1, size matters more where there are more tokens (Kaplan et al., 2020, arXiv
2001.08361, equation 1.5, which has no E); gamma is one for all too. At 1 it is the law of Hoffmann et al. (2022, arXiv
2203.15556). Fitted by the sum of Huber losses of log L from many starts (Hoffmann et al., approach 3); their mean in
place of the sum stopped the optimizer early, and gave intervals that were far too narrow (Besiroglu et al., 2024, arXiv
2404.10102).

Uncertainty is a bootstrap: each draw resamples the seeds of every point of the ladder, flips the sign of the point's
own deviation from the law at random (a wild bootstrap; Wu, 1986), and fits again. A predicted run deviates from its
law as the runs of the ladder do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.reporting.data.runs import branches_of, finished_records, split_of, stage_names
from src.reporting.data.shared_results import shared
from src.reporting.statistics.significance import LEVEL

HUBER_DELTA = 1e-3
"""Deviation of log L from which it counts linearly: about the noise between seeds."""
DRAWS = 300
MIN_POINTS = 9
"""Different sizes and budgets together: six numbers are fitted, and as many points fit some law exactly."""
MIN_DISTINCT = 3
"""Different sizes, and different budgets: two show no curvature, and thus no entropy."""
STARTS = tuple(product((0.15, 0.4, 0.8), (0.15, 0.4, 0.8), (0.3, 0.6, 0.9), (0.3, 1.0)))
"""alpha, beta, E as a share of the lowest loss, and gamma."""
N_SHARED, N_OWN = 2, 4
"""Parameters of all architectures, log E and log gamma, and of each: log A, alpha, log B, beta."""
LOWER = (-20.0, -3.0), (-20.0, 0.0, -20.0, 0.0)
UPPER = (5.0, 1.0), (5.0, 3.0, 5.0, 3.0)
"""Of the shared parameters and those of an architecture: loss grows with neither size nor budget."""
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
    """(1 + DRAWS, 6) log E, log gamma, log A', alpha, log B', beta, with the terms A' and B' at `center`. First the fit
    itself."""
    center: tuple[float, float]
    """Means of log N and log D."""
    noise: float
    """Standard deviation of log L of a run around the laws: of its seed, and of what they do not describe."""
    is_entropy_known: bool
    """Whether E was given."""

    def losses(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """Return the loss by the fit, of numbers or arrays that broadcast."""
        x, y = np.broadcast_arrays(np.log(params) - self.center[0], np.log(tokens) - self.center[1])
        places = _Data(x.ravel(), y.ravel(), np.zeros(x.size, dtype=int))
        return np.exp(_log_loss(self.parameters[0], places)).reshape(x.shape)

    def draws(self, params: float, tokens: float) -> np.ndarray:
        """Return the loss by the fit and by each draw, (1 + DRAWS,)."""
        x, y = np.log(params) - self.center[0], np.log(tokens) - self.center[1]
        return np.exp(_log_loss(self.parameters, _Data(np.array([x]), np.array([y]), np.array([0]))))[:, 0]

    def predict(self, params: float, tokens: float) -> Prediction:
        """Predict a run of this size and budget."""
        low, high = np.quantile(self.runs(params, tokens, np.random.default_rng(0)), (LEVEL / 2, 1 - LEVEL / 2))
        return Prediction(float(self.losses(params, tokens)), float(low), float(high))

    def runs(self, params: float, tokens: float, generator: np.random.Generator) -> np.ndarray:
        """Return the loss of a run by each draw of the law, with its noise around the law, (DRAWS,).

        Never below a known entropy, which no model beats.
        """
        runs = self.draws(params, tokens)[1:] * np.exp(self.noise * generator.standard_normal(DRAWS))
        return np.maximum(runs, self.entropy) if self.is_entropy_known else runs

    def is_below(self, params: float, tokens: float) -> bool:
        """Return whether every point is larger, or has more tokens. Laws miss there: warm-up is most of such a run."""
        least_params, least_tokens = (min(point[axis] for point in self.points) for axis in (0, 1))
        return params < least_params or tokens < least_tokens

    @property
    def tokens_per_parameter(self) -> float:
        """The most that a point has. A law is trusted where tokens and parameters grow together as in the ladder:
        extrapolated in one of them alone, a small error of its exponent decides."""
        return max(point.tokens / point.params for point in self.points)

    @property
    def entropy(self) -> float:
        """E, in bits per byte."""
        return float(np.exp(self.parameters[0, 0]))

    @property
    def exponents(self) -> tuple[float, float, float]:
        """alpha, beta and gamma."""
        return float(self.parameters[0, 3]), float(self.parameters[0, 5]), float(np.exp(self.parameters[0, 1]))


@shared
def fit_joint_laws(runs: pd.DataFrame, entropy: float | None = None) -> list[JointLaw]:
    """Fit a law to each architecture whose finished runs have sizes and budgets enough.

    The budgets are the first stage and its branches (`stage=language_budgets`). entropy: E in bits per byte if it is
    known; that of generated text is read from the runs.
    """
    points = {architecture: found for architecture, found in points_of(runs).items() if is_enough(found)}
    return fit_laws(points, _entropy_of(runs) if entropy is None else entropy) if points else []


def points_of(runs: pd.DataFrame) -> dict[str, list[Point]]:
    """Return the results of each architecture's finished runs: of the first stage and its branches."""
    records, names = finished_records(runs), stage_names(runs)
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


def _entropy_of(runs: pd.DataFrame) -> float | None:
    """Return the entropy of generated text in bits per byte; None for other text."""
    floors = {record.get(f"{stage_names(runs)[0]}/floor_bits_per_byte") for record in finished_records(runs)}
    return next(iter(floors)) if len(floors) == 1 else None


def is_enough(points: Sequence[Point]) -> bool:
    """Return whether a law can be fitted."""
    distinct = {point[:2] for point in points}
    sizes, budgets = ({point[axis] for point in distinct} for axis in (0, 1))
    return len(distinct) >= MIN_POINTS and min(len(sizes), len(budgets)) >= MIN_DISTINCT


def fit_laws(points: Mapping[str, Sequence[Point]], entropy: float | None = None) -> list[JointLaw]:
    """Fit the law of each architecture, and draws of it for intervals; they share E, of the text, and gamma.

    Points of equal size and budget count as seeds of one.
    """
    every = [point for own in points.values() for point in own]
    owner = np.repeat(np.arange(len(points)), [len(own) for own in points.values()])
    n, d, loss = (np.array(values, dtype=float) for values in zip(*every, strict=True))
    x, y, log_loss = np.log(n), np.log(d), np.log(loss)
    center = float(x.mean()), float(y.mean())
    data = _Data(x - center[0], y - center[1], owner)
    log_entropy = None if entropy is None else float(np.log(entropy))
    starts = _starts(loss, owner, log_entropy)
    tried, values = _minimize(starts, data, np.tile(log_loss, (len(starts), 1)), log_entropy)
    best = tried[int(np.argmin(values))]
    law = _log_loss(best, data)
    generator, again = np.random.default_rng(0), np.tile(law, (DRAWS, 1))
    n_fitted = N_OWN + (N_SHARED - (entropy is not None)) / len(points)
    for index in range(len(points)):
        own = np.flatnonzero(owner == index)
        cells = _cells(every, own)
        # k fitted numbers make deviations smaller by sqrt(1 - k / n), a mean of m seeds theirs by sqrt(1 - 1 / m).
        scale = np.sqrt(len(cells) / max(1, len(cells) - n_fitted))
        for cell in cells:
            rest, m = log_loss[cell] - log_loss[cell].mean(), len(cell)
            seeds = generator.choice(rest, (DRAWS, m)) * np.sqrt(m / max(1, m - 1))
            signs = generator.choice((-1.0, 1.0), (DRAWS, 1))
            again[:, cell] += signs * scale * (log_loss[cell].mean() - law[cell].mean()) + seeds
    drawn, _ = _minimize(np.tile(best, (DRAWS, 1)), data, again, log_entropy)
    parameters = np.concatenate([best[None], drawn])
    # The few points of one architecture can lie close to its law by chance.
    noise = float(np.sqrt(((log_loss - law) ** 2).sum() / max(1.0, len(every) - n_fitted * len(points))))
    return [
        JointLaw(name, tuple(own), parameters[:, _columns(index)], center, noise, entropy is not None)
        for index, (name, own) in enumerate(points.items())
    ]


def left_out_errors(laws: Sequence[JointLaw]) -> dict[str, float | None]:
    """Return the relative error of each law at its largest size, fitted without that; None if too little is left.

    It is how far the law missed when it last extrapolated: positive where the prediction was too high.
    """
    largest = {law.architecture: max(point.params for point in law.points) for law in laws}
    smaller = {
        law.architecture: [each for each in law.points if each.params < largest[law.architecture]] for law in laws
    }
    enough = {architecture: points for architecture, points in smaller.items() if is_enough(points)}
    known = next((law.entropy for law in laws if law.is_entropy_known), None)
    lefts = {law.architecture: law for law in (fit_laws(enough, known) if enough else [])}
    errors: dict[str, float | None] = {}
    for law in laws:
        above = [point for point in law.points if point.params == largest[law.architecture]]
        left = lefts.get(law.architecture)
        missed = [float(left.losses(*point[:2])) / point.loss - 1 for point in above] if left else []
        errors[law.architecture] = max(missed, key=abs, default=None)
    return errors


class _Data(NamedTuple):
    """Where the points lie: centered log N and log D, and the number of the architecture, (points,) each."""

    x: np.ndarray
    y: np.ndarray
    owner: np.ndarray


def _columns(index: int) -> list[int]:
    """Return where the parameters of an architecture are: those of all are first."""
    start = N_SHARED + N_OWN * index
    return [*range(N_SHARED), *range(start, start + N_OWN)]


def _cells(points: Sequence[Point], own: np.ndarray) -> list[np.ndarray]:
    """Group the indices of points of equal size and budget."""
    found: dict[tuple[float, float], list[int]] = {}
    for index in map(int, own):
        found.setdefault(points[index][:2], []).append(index)
    return [np.array(indices) for indices in found.values()]


def _starts(loss: np.ndarray, owner: np.ndarray, log_entropy: float | None) -> np.ndarray:
    """Return the first guesses, (n, 2 + 4 architectures)."""
    found: list[list[float]] = []
    for alpha, beta, share, gamma in STARTS:
        floor = share * loss.min() if log_entropy is None else np.exp(log_entropy)
        start = [float(np.log(floor)), float(np.log(gamma))]
        for index in range(owner.max() + 1):
            rest = float(np.log(max(1e-6, loss[owner == index].mean() - floor))) / gamma - float(np.log(2))
            start += [rest, alpha / gamma, rest, beta / gamma]
        found.append(start)
    return np.array(found)


class _Terms(NamedTuple):
    """The parts of a law at its points, (..., points) each."""

    log_entropy: np.ndarray
    gamma: np.ndarray
    log_size: np.ndarray
    """Of A / N^alpha."""
    log_sum: np.ndarray
    """Of A / N^alpha + B / D^beta."""
    log_loss: np.ndarray


def _terms(theta: np.ndarray, data: _Data) -> _Terms:
    log_a, alpha, log_b, beta = (theta[..., N_SHARED + index + N_OWN * data.owner] for index in range(N_OWN))
    log_entropy, log_gamma = theta[..., :1] + 0 * data.x, theta[..., 1:2] + 0 * data.x
    gamma, log_size = np.exp(log_gamma), log_a - alpha * data.x
    log_sum = np.logaddexp(log_size, log_b - beta * data.y)
    return _Terms(log_entropy, gamma, log_size, log_sum, np.logaddexp(log_entropy, gamma * log_sum))


def _log_loss(theta: np.ndarray, data: _Data) -> np.ndarray:
    """Return log L, (..., points)."""
    return _terms(theta, data).log_loss


def _huber(rest: np.ndarray) -> np.ndarray:
    """Return the Huber loss of deviations in units of its delta, summed over points."""
    size = np.abs(rest)
    return np.where(size <= 1, size**2 / 2, size - 0.5).sum(axis=-1)


def _minimize(
    theta: np.ndarray, data: _Data, log_loss: np.ndarray, log_entropy: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters at minima of the Huber loss, and its values, for many fits at once.

    Levenberg-Marquardt with the weights of Huber's loss, 1 / max(1, deviation), as scipy's least_squares does for one
    fit; hundreds of fits, one after the other, take a minute with it. theta: (n, parameters). log_loss: (n, points).
    """
    n_laws = (theta.shape[1] - N_SHARED) // N_OWN
    free = np.array([log_entropy is None, *[True] * (theta.shape[1] - 1)])
    lower, upper = (np.array([*shared, *own * n_laws]) for shared, own in (LOWER, UPPER))
    index = np.arange(len(data.x))
    damping = np.full(len(theta), 1e-2)
    theta = theta.copy()
    rest = (_log_loss(theta, data) - log_loss) / HUBER_DELTA
    value = _huber(rest)
    for _ in range(MAX_ITERATIONS):
        terms = _terms(theta, data)
        learnable = terms.gamma * np.exp(terms.gamma * terms.log_sum - terms.log_loss)
        size = learnable * np.exp(terms.log_size - terms.log_sum)
        budget = learnable - size
        slopes = np.zeros((*size.shape, theta.shape[1]))
        slopes[..., 0] = np.exp(terms.log_entropy - terms.log_loss)
        slopes[..., 1] = learnable * terms.log_sum
        for place, slope in enumerate((size, -size * data.x, budget, -budget * data.y)):
            slopes[:, index, N_SHARED + place + N_OWN * data.owner] = slope
        slopes /= HUBER_DELTA
        weighted = slopes * (1 / np.maximum(1, np.abs(rest)))[..., None]
        curvature = np.swapaxes(weighted, -1, -2) @ slopes
        gradient = (weighted * rest[..., None]).sum(axis=-2)
        diagonal = np.einsum("nii->ni", curvature)
        damped = curvature + np.eye(len(free)) * (damping[:, None] * diagonal + 1e-9 * diagonal.max())[..., None]
        step = np.zeros_like(theta)
        step[:, free] = np.linalg.solve(damped[:, free][:, :, free], gradient[:, free, None])[..., 0]
        tried = np.clip(theta - step, lower, upper)
        new_rest = (_log_loss(tried, data) - log_loss) / HUBER_DELTA
        new_value = _huber(new_rest)
        is_lower = new_value < value
        gain = float(np.max(np.where(is_lower, value - new_value, 0)))
        theta, rest = np.where(is_lower[:, None], tried, theta), np.where(is_lower[:, None], new_rest, rest)
        value = np.where(is_lower, new_value, value)
        damping = np.clip(np.where(is_lower, damping / 4, damping * 4), 1e-9, 1e9)
        if gain < 1e-9 and damping.min() > 1:
            break
    return theta, value
