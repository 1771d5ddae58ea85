"""Whether what a probe measures differs from nothing by more than its seeds vary."""

# scipy brings no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from statistics import fmean, variance

from src.reporting.statistics.significance import LEVEL

MIN_FREEDOM = 4
"""Those of two architectures with three seeds, which a verdict needs too."""


def is_noise(points: Sequence[Sequence[Sequence[float]]], least: float) -> bool:
    """Whether no mean over seeds is at least `least` and above 0 by more than chance.

    False where no place has MIN_FREEDOM degrees of freedom, since the noise is unknown then.

    points: of each place (a stage and a distance), the values of the seeds of each architecture. One-sided t tests with
    the variance of a place pooled over architectures, at LEVEL divided by the number of tests.
    """
    from scipy.special import stdtr

    tests, has_replicates = sum(map(len, points)), False
    for architectures in points:
        freedom = sum(len(seeds) - 1 for seeds in architectures)
        if freedom < MIN_FREEDOM:
            continue
        has_replicates = True
        pooled = sum((len(seeds) - 1) * variance(seeds) for seeds in architectures if len(seeds) > 1) / freedom
        for seeds in architectures:
            error = math.sqrt(pooled / len(seeds))
            t = fmean(seeds) / error if error else math.copysign(math.inf, fmean(seeds)) if any(seeds) else 0.0
            if fmean(seeds) >= least and 1 - float(stdtr(freedom, t)) < LEVEL / tests:
                return False
    return has_replicates
