"""Carry learning rates to a size that was not searched: a power law of the best rates of searched sizes.

lr(N) = c * N^-p for each architecture, N being the active parameters of dense without embeddings. Others fit such laws
to the best rates of several sizes too (Bi et al., 2024, arXiv 2401.02954, against compute; Li et al., 2025, arXiv
2503.04715, against size and tokens). The best rate of a search is the vertex of the parabola of loss against the
logarithm of the rate through the best trial and its neighbors, since a grid alone is too coarse for a law.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Trial = tuple[float, float]
"""Learning rate and loss."""


class TransferredRate(NamedTuple):
    """A rate by the law."""

    learning_rate: float
    factor: float | None
    """Of its standard error, to multiply and divide by; None with two sizes, through which a law goes exactly."""
    exponent: float
    """p: the rate falls by 2^-p where the size doubles."""


def refine_best_rate(trials: Sequence[Trial]) -> float:
    """Return the rate with the lowest loss by a parabola through the best trial and its neighbors.

    At the edge of the range, and where a neighbor has diverged, it is the rate of the best trial.
    """
    trials = sorted(trials)
    best = min(range(len(trials)), key=lambda index: trials[index][1])
    around = trials[best - 1 : best + 2] if best else []
    if len(around) < 3 or not all(math.isfinite(loss) for _, loss in around):
        return trials[best][0]
    (x0, y0), (x1, y1), (x2, y2) = ((math.log(rate), loss) for rate, loss in around)
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    if curvature <= 0:
        return trials[best][0]
    vertex = (x0 + x1) / 2 - left / (2 * curvature)
    return math.exp(min(max(vertex, x0), x2))


def transfer_rate(searched: Sequence[tuple[float, float]], params: float) -> TransferredRate:
    """Return the rate for a size from (parameters, best rate) of at least two others, rounded to three digits."""
    x, y = (np.log([each[index] for each in searched]) for index in (0, 1))
    centered = x - x.mean()
    slope = float((centered * y).sum() / (centered**2).sum())
    at = math.log(params) - float(x.mean())
    factor = None
    if len(searched) > 2:
        rest = y - y.mean() - slope * centered
        variance = float((rest**2).sum()) / (len(searched) - 2)
        factor = math.exp(math.sqrt(variance * (1 / len(searched) + at**2 / float((centered**2).sum()))))
    return TransferredRate(float(f"{math.exp(float(y.mean()) + slope * at):.3g}"), factor, -slope)
