"""The interval of a share over seeds, which stays between 0 and 1.

Wilson's interval (1927, J. Am. Stat. Assoc. 22) of the pooled share. The number of trials is divided by the design
effect (Rao and Scott, 1992, Biometrics 48): by how much more the shares of seeds vary than those of independent trials.
So the interval covers other seeds as well as other trials of the same models.
"""

import math
from collections.abc import Sequence
from statistics import variance

Z = 1.959964
"""Standard deviations of a normal distribution on each side of a 95% interval."""


def share_interval(hits: Sequence[float], trials: Sequence[float]) -> tuple[float, float, float]:
    """Return the pooled share and its 95% interval, from the hits and the trials of each seed."""
    n = sum(trials)
    share = sum(hits) / n
    n /= design_effect(hits, trials)
    center = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return share, min(share, max(0.0, center - half)), max(share, min(1.0, center + half))  # rounding aside


def design_effect(hits: Sequence[float], trials: Sequence[float]) -> float:
    """Return the variance of the shares of seeds over that of independent trials; at least 1."""
    share, each = sum(hits) / sum(trials), sum(trials) / len(trials)
    expected = share * (1 - share) / each
    if len(trials) < 2 or expected == 0:
        return 1.0
    return max(1.0, variance(h / n for h, n in zip(hits, trials, strict=True)) / expected)
