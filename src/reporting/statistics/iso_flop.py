"""Which size has the lowest loss for equal training FLOPs, by a parabola through the results of a ladder.

It is a second estimate beside that of the laws (Hoffmann et al., 2022, arXiv 2203.15556, approach 2): the loss of each
size is interpolated between its budgets at the same FLOPs, and a parabola in log N is put through the sizes.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from src.reporting.data.json_values import Record
from src.reporting.statistics.joint_law import JointLaw

FlopsOfSize = Callable[[np.ndarray], np.ndarray]
MIN_SIZES = 3
N_SIZES = 200


class Size(NamedTuple):
    params: float
    """Active, without embeddings."""
    tokens: float


class BestSize(NamedTuple):
    """The best size of an architecture for these FLOPs; None where the loss is lowest at an end of the ladder."""

    flops: float
    by_parabola: Size | None
    by_law: Size | None


def flops_per_token(records: Sequence[Record], architecture: str) -> FlopsOfSize:
    """Return training FLOPs per token as a power law of the parameters of an architecture."""
    own = {
        float(record["active_non_embedding_params"]): float(record["train_flops_per_token"])
        for record in records
        if record["architecture"] == architecture
    }
    slope, intercept = np.polyfit(np.log([*own]), np.log([*own.values()]), 1)
    return lambda params: np.exp(intercept) * params**slope


def best_size(law: JointLaw, per_token: FlopsOfSize) -> BestSize | None:
    """Return the best size at the middle of the FLOPs that all sizes of a ladder have; None if they share none."""
    sizes = sorted({point.params for point in law.points})
    curves = {params: _mean_losses(law, params) for params in sizes}
    flops = {params: per_token(np.array(params)) * np.array([*curve]) for params, curve in curves.items()}
    low, high = max(each.min() for each in flops.values()), min(each.max() for each in flops.values())
    if low > high or len(sizes) < MIN_SIZES:
        return None
    middle = float(np.sqrt(low * high))
    losses = [np.interp([np.log(middle)], np.log(flops[n]), [*curves[n].values()])[0] for n in sizes]
    curvature, slope, _ = np.polyfit(np.log(sizes), losses, 2)
    by_parabola = math.exp(-slope / (2 * curvature)) if curvature > 0 else 0.0
    between = np.geomspace(sizes[0], sizes[-1], N_SIZES)
    by_law = between.tolist()[int(np.argmin(law.losses(between, middle / per_token(between))))]
    parabola, from_law = (
        Size(params, float(middle / per_token(np.array(params)))) if sizes[0] < params < sizes[-1] else None
        for params in (by_parabola, by_law)
    )
    return BestSize(middle, parabola, from_law)


def _mean_losses(law: JointLaw, params: float) -> dict[float, float]:
    """Return the mean loss over seeds of each budget of a size, the smallest first."""
    found: dict[float, list[float]] = {}
    for point in sorted(law.points):
        if point.params == params:
            found.setdefault(point.tokens, []).append(point.loss)
    return {tokens: float(np.mean(losses)) for tokens, losses in found.items()}
