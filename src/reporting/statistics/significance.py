"""Compare architectures over few seeds, which are independent replicates and need not be equally many.

*Best.* The architecture with the lowest mean is best if it is ahead of every other by Welch's t test. That is an
intersection-union test (Berger, 1982, Technometrics 24): its p is the largest of its pairs and needs no correction for
their number, since a false "best" has to beat the true one. Hochberg (1988, Biometrika 75) corrects these p for the
headlines of a report, which are independent or positively dependent (stages of the same runs).

*Pairs.* Simultaneous intervals of all pairs, each the wider of Tukey-Kramer's (pooled variance) and Games-Howell's
(1976, J. Educ. Stat. 1; a variance for each architecture). Pooled variance alone makes too much of the mean of one
noisy architecture; variances of three seeds each are sometimes small by chance. The level is divided by the number of
headlines (Bonferroni). All pairs significant implies "best", not the reverse.

*Unstable.* An architecture whose seeds fall into two clusters is left out of all that: no run is like its mean.

docs/dev/STATISTICS.md has the error rates and the power of these rules, by simulation.
"""

# scipy brings no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from statistics import fmean, stdev, variance
from typing import NamedTuple

MIN_SEEDS = 3
"""Fewest seeds of an architecture for a verdict."""
LEVEL = 0.05
"""Chance of a false statement of a kind (a best, a pair) in a whole report."""
UNSTABLE_LEVEL = 0.02
"""Nominal chance that the rule for instability fires on equal normal spreads; by simulation it does in at most 1%."""

Values = Mapping[str, Sequence[float]]
"""Bits per byte of the seeds of each architecture, less being better."""


class Pair(NamedTuple):
    """Two architectures, the better one by its mean first."""

    better: str
    other: str
    difference: float
    """Mean of `other` less mean of `better`, in bits per byte; not negative."""
    half_width: float
    """Half the width of the simultaneous interval."""

    @property
    def is_significant(self) -> bool:
        return self.difference > self.half_width

    def is_equivalent(self, margin: float) -> bool:
        """Whether the interval lies within the margin on both sides: two one-sided tests (Schuirmann, 1987)."""
        return self.difference + self.half_width < margin


@dataclass(frozen=True)
class Comparison:
    """The result of comparing the architectures of one headline."""

    stable: dict[str, list[float]]
    """Bits per byte of each architecture that is compared, in the order of their means, the best first."""
    unstable: dict[str, list[float]]
    """Those whose seeds fall into two clusters; nothing is claimed of their means."""
    p_best: float
    """p that the first stable one is not better than every other; not corrected for other headlines."""
    pairs: list[Pair]
    """Each pair of stable architectures."""

    @property
    def leader(self) -> str:
        return next(iter(self.stable))

    def behind_leader(self) -> list[Pair]:
        """Return the pairs of the leader with each other architecture, in the order of their means."""
        return [pair for pair in self.pairs if pair.better == self.leader]


def compare_architectures(
    values: Values, n_headlines: float = 1, level: float = LEVEL, unstable: Collection[str] | None = None
) -> Comparison:
    """Compare two architectures or more in one of the headlines of a report, each with at least MIN_SEEDS seeds.

    unstable: the architectures to leave out; those of `find_unstable` unless given.
    """
    assert len(values) > 1 and all(len(seeds) >= MIN_SEEDS for seeds in values.values())
    names = find_unstable(values) if unstable is None else unstable
    order = sorted((name for name in values if name not in names), key=lambda name: fmean(values[name]))
    stable = {name: list(values[name]) for name in order}
    left_out = {name: sorted(values[name]) for name in values if name in names}
    return Comparison(stable, left_out, _p_best(stable), _simultaneous(stable, level / n_headlines))


def compare_stages(stages: Sequence[Values], n_headlines: float) -> list[Comparison]:
    """Compare the same runs after each of their stages: a run that is unstable in one stage is so in all.

    If that would leave fewer than two architectures, each stage is judged by itself.
    """
    found = [find_unstable(values) for values in stages]
    union = set[str]().union(*found)
    left_out = [union if len(values.keys() - union) > 1 else own for values, own in zip(stages, found, strict=True)]
    return [
        compare_architectures(values, n_headlines, unstable=names)
        for values, names in zip(stages, left_out, strict=True)
    ]


def find_unstable(values: Values, level: float = UNSTABLE_LEVEL) -> set[str]:
    """Name the architectures whose seeds fall into two clusters, far apart against the spread of the others.

    The largest gap between neighbouring seeds separates the clusters. It has to exceed half of the range of all seeds,
    and what the *range* of so many seeds reaches by chance at the pooled spread of the others (studentized range).
    Several are found from the widest inward, as outliers are (Rosner, 1983, Technometrics 25), so that none hides
    another; at least two architectures remain.
    """
    gaps = {name: _cluster_gap(seeds) for name, seeds in values.items()}
    order = sorted(values, key=lambda name: -gaps[name])
    found = set[str]()
    for n in range(1, len(order) - 1):
        name, rest = order[n - 1], order[n:]
        spread, freedom = _pooled_spread([values[other] for other in rest])
        critical = _studentized_range(1 - level / (len(rest) + 1), len(values[name]), freedom) * math.sqrt(2)
        if gaps[name] > critical * spread > 0:
            found = set(order[:n])
    return found


def _cluster_gap(seeds: Sequence[float]) -> float:
    """Return the largest gap between neighbors if it separates two clusters, else 0."""
    ordered = sorted(seeds)
    largest = max(after - before for before, after in pairwise(ordered))
    return largest if largest > (ordered[-1] - ordered[0]) / 2 else 0.0


def _pooled_spread(samples: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within samples, and its degrees of freedom."""
    freedom = sum(len(seeds) - 1 for seeds in samples)
    return math.sqrt(sum((len(seeds) - 1) * variance(seeds) for seeds in samples) / freedom), freedom


def _p_best(stable: dict[str, list[float]]) -> float:
    """Return the largest p of Welch's two-sided tests of the first against each other."""
    from scipy.special import stdtr

    (leader, *others), largest = stable.values(), 0.0
    for other in others:
        difference = fmean(other) - fmean(leader)
        error, freedom = _welch(leader, other)
        if error > 0:
            largest = max(largest, 2 * float(stdtr(freedom, -difference / error)))
        elif difference <= 0:
            return 1.0
    return largest


def _welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the standard error of a difference of means, and its degrees of freedom (Welch and Satterthwaite)."""
    a, b = variance(first) / len(first), variance(second) / len(second)
    if a + b == 0:
        return 0.0, len(first) + len(second) - 2.0
    share = a / (a + b)  # of the first, so that no large number is squared
    return math.sqrt(a + b), 1 / (share**2 / (len(first) - 1) + (1 - share) ** 2 / (len(second) - 1))


def _simultaneous(stable: dict[str, list[float]], level: float) -> list[Pair]:
    """Return every pair with its interval, the wider of Tukey-Kramer's and Games-Howell's."""
    spread, freedom = _pooled_spread(list(stable.values()))
    pairs: list[Pair] = []
    for better, other in combinations(stable, 2):
        first, second = stable[better], stable[other]
        pooled_error = spread * math.sqrt(1 / len(first) + 1 / len(second))
        own_error, own_freedom = _welch(first, second)
        half = max(
            tukey_critical(level, len(stable), freedom) * pooled_error,
            tukey_critical(level, len(stable), own_freedom) * own_error,
        )
        pairs.append(Pair(better, other, fmean(second) - fmean(first), half))
    return pairs


def tukey_critical(level: float, n_architectures: int, freedom: float) -> float:
    """Return how many standard errors two of so many means may differ by chance, freedom rounded down.

    To quarters below 5 and to whole numbers above, so that the few values there are can be kept: each takes 0.1 s.
    """
    return _studentized_range(1 - level, n_architectures, math.floor(4 * freedom) / 4 if freedom < 5 else int(freedom))


@cache
def _studentized_range(confidence: float, n: int, freedom: float) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(confidence, n, freedom)) / math.sqrt(2)


def correct_for_headlines(comparisons: Sequence[Comparison]) -> list[float]:
    """Correct `p_best` for the number of headlines of a report, in the same order.

    By Hochberg's step-up procedure, in which headlines with a clear best weaken the correction of the others. Those
    that leave out an unstable architecture are corrected by Bonferroni and do not weaken it: otherwise leaving out
    what varies would favor claims about the same architecture where it varies little by chance.
    """
    n, lowest = len(comparisons), 1.0
    corrected = [min(1.0, n * comparison.p_best) for comparison in comparisons]
    all_stable = [index for index in range(n) if not comparisons[index].unstable]
    for rank, index in enumerate(
        sorted(all_stable, key=lambda index: -comparisons[index].p_best), n - len(all_stable) + 1
    ):
        corrected[index] = lowest = min(lowest, rank * comparisons[index].p_best)
    return corrected


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its own 95% confidence interval; None with fewer than three values.

    Such intervals are about one architecture by itself: two of them do not show whether two architectures differ.
    """
    from scipy.special import stdtrit

    if len(values) < MIN_SEEDS:
        return fmean(values), None
    quantile = float(stdtrit(len(values) - 1, 1 - LEVEL / 2))
    return fmean(values), quantile * stdev(values) / math.sqrt(len(values))
