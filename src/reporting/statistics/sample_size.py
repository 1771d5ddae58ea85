"""How many seeds decide a difference: the power of a comparison at the spread that its seeds have shown."""

# scipy brings no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math

from src.reporting.statistics.significance import LEVEL

POWER = 0.8
"""Chance that so many seeds find a difference that is there."""
MAX_SEEDS = 1000


def seeds_needed(difference: float, spread: float, n_headlines: int = 1) -> int | None:
    """Return how many seeds of each of two architectures give the power POWER; None where it is more than MAX_SEEDS.

    difference: between the means, in bits per byte. spread: standard deviation over seeds, of both.
    """
    enough = (n for n in range(2, MAX_SEEDS + 1) if power(n, difference, spread, n_headlines) >= POWER)
    return next(enough, None)


def power(n_seeds: int, difference: float, spread: float, n_headlines: int = 1) -> float:
    """Return the chance that the better of two is found best: t test at LEVEL divided by the number of headlines."""
    from scipy.special import nctdtr, stdtrit

    if spread == 0:
        return 1.0
    freedom = 2 * (n_seeds - 1)
    critical = float(stdtrit(freedom, 1 - LEVEL / n_headlines / 2))
    return 1 - float(nctdtr(freedom, difference / (spread * math.sqrt(2 / n_seeds)), critical))
