"""Error rates and power of the verdicts, by simulation:  python -m tests.reporting.statistics.simulation

Writes the tables of docs/dev/STATISTICS.md. Seeds are normal with standard deviation 1, unless the design says
otherwise. The rules are those of src/reporting/statistics/significance.py, for arrays; test_simulation.py compares
both.

R: reports. M: headlines in a report. K: architectures. N: seeds.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtr

from src.reporting.statistics.sequential import LOOKS, share_of_look
from src.reporting.statistics.significance import LEVEL, UNSTABLE_LEVEL, tukey_critical

DOCUMENT = Path(__file__).parents[3] / "docs" / "dev" / "STATISTICS.md"
BEGIN, END = "<!-- tables:begin -->\n", "<!-- tables:end -->\n"
N_ARCHITECTURES, N_SEEDS, N_HEADLINES = (4, 6), (3, 5, 10), (1, 6)
SAMPLES = 24_000
"""Headlines for each cell: with one in a report 24,000 reports, with six 4,000."""
FALL, FALL_SHARE = 20.0, 1 / 3
"""How far above its level a seed ends that diverges, and the share of seeds that do."""
FAR = 60.0
SEQUENTIAL_COLUMNS = {
    "false_best": "false best",
    "false_statement": "false statement",
    "power": "first is best, in % of headlines",
    "seeds": "seeds, mean",
}


@dataclass(frozen=True)
class Design:
    """The true values of the architectures."""

    name: str
    n_top: int | None = None
    """How many are equally good; the others are FAR behind. None: all are."""
    lead: float = 0.0
    """How far the first is ahead of the others."""
    spread: float = 1.0
    """Standard deviation of the last of the equally good ones."""
    has_diverging: bool = False
    """Whether seeds of the last one diverge."""

    def means(self, k: int) -> np.ndarray:
        """Return the true means, [K]."""
        top = self.n_top or k
        means = np.where(np.arange(k) < top, 0.0, FAR)
        means[0] -= self.lead
        means[-1] += FALL * FALL_SHARE * self.has_diverging
        return means

    def draw(self, rng: np.random.Generator, reports: int, headlines: int, k: int, n: int) -> np.ndarray:
        """Draw bits per byte, [R, M, K, N]."""
        spreads, means = np.ones(k), self.means(k)
        spreads[(self.n_top or k) - 1] = self.spread
        means[-1] -= FALL * FALL_SHARE * self.has_diverging
        values = rng.standard_normal((reports, headlines, k, n)) * spreads[:, None] + means[:, None]
        if self.has_diverging:
            values[:, :, -1] += FALL * (rng.random((reports, headlines, n)) < FALL_SHARE)
        return values


EQUAL = Design("all equal")
LEAD = Design("first ahead by 5 sd", lead=5)
SMALL_LEAD = Design("first ahead by 2 sd", lead=2)
LEAD_BESIDE_DIVERGING = Design("first ahead by 5 sd, one diverges at times", lead=5, has_diverging=True)
DIVERGING = Design("all equal, one diverges at times", has_diverging=True)
NULLS = (
    EQUAL,
    Design("all equal, one with spread 5", spread=5),
    Design("all equal, one with spread 10", spread=10),
    Design("two equal at the top", n_top=2),
    Design("two equal at the top, one with spread 5", n_top=2, spread=5),
    Design("two equal at the top, one with spread 10", n_top=2, spread=10),
    DIVERGING,
)


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on each headline; i and j are the architectures of the P pairs."""

    unstable: np.ndarray
    """[R, M, K]"""
    leader: np.ndarray
    """[R, M]"""
    is_best: np.ndarray
    """[R, M]"""
    i: np.ndarray
    j: np.ndarray
    difference: np.ndarray
    """[R, M, P], the mean of j less that of i."""
    half_width: np.ndarray
    """[R, M, P], infinite where one of the two is unstable."""


def judge(values: np.ndarray, report_level: float = LEVEL) -> Verdicts:
    """Apply the rules to `values`, [R, M, K, N]; a report may spend `report_level`."""
    _, m, k, n = values.shape
    means, variances = values.mean(-1), values.var(-1, ddof=1)
    unstable = find_unstable(values, variances)
    n_stable = k - unstable.sum(-1)
    leader = np.where(unstable, np.inf, means).argmin(-1)
    p = np.where(unstable, 0.0, p_ahead(means, variances, leader, n)).max(-1)
    i, j = np.triu_indices(k, 1)
    error, freedom = welch(variances[..., i], variances[..., j], n)
    pooled = np.where(unstable, 0.0, variances).sum(-1) / n_stable
    level = report_level / m
    tukey = critical(level, n_stable, n_stable * (n - 1.0)) * np.sqrt(2 * pooled / n)
    games_howell = critical(level, np.broadcast_to(n_stable[..., None], freedom.shape), freedom) * error
    half = np.maximum(tukey[..., None], games_howell)
    half = np.where(unstable[..., i] | unstable[..., j], np.inf, half)
    return Verdicts(
        unstable, leader, correct(p, n_stable < k) < report_level, i, j, means[..., j] - means[..., i], half
    )


def find_unstable(values: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Mark the unstable architectures, [R, M, K]."""
    *_, k, n = values.shape
    ordered = np.sort(values, -1)
    gaps = np.diff(ordered).max(-1)
    gaps = np.where(gaps > (ordered[..., -1] - ordered[..., 0]) / 2, gaps, 0.0)
    order = np.argsort(-gaps, axis=-1, kind="stable")
    gaps, variances = np.take_along_axis(gaps, order, -1), np.take_along_axis(variances, order, -1)
    count = np.zeros(gaps.shape[:-1], int)
    for found in range(1, k - 1):
        rest = k - found
        limit = tukey_critical(UNSTABLE_LEVEL / (rest + 1), n, rest * (n - 1)) * math.sqrt(2)
        count = np.where(gaps[..., found - 1] > limit * np.sqrt(variances[..., found:].mean(-1)), found, count)
    marks = np.zeros(gaps.shape, bool)
    np.put_along_axis(marks, order, np.arange(k) < count[..., None], -1)
    return marks


def welch(first: np.ndarray, second: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standard errors of differences and degrees of freedom, from variances of n seeds each."""
    total = first + second
    return np.sqrt(total / n), (n - 1) / ((first / total) ** 2 + (second / total) ** 2)


def p_ahead(means: np.ndarray, variances: np.ndarray, leader: np.ndarray, n: int) -> np.ndarray:
    """Return p of the leader's Welch test against each, [R, M, K]; 0 for itself."""
    at = leader[..., None]
    error, freedom = welch(variances, np.take_along_axis(variances, at, -1), n)
    p = 2 * stdtr(freedom, -(means - np.take_along_axis(means, at, -1)) / error)
    np.put_along_axis(p, at, 0.0, -1)
    return p


def critical(level: float, n_stable: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Look up `tukey_critical` for arrays of the same shape."""
    rounded = np.where(freedom < 5, np.floor(4 * freedom) / 4, np.floor(freedom))
    code, where = np.unique(n_stable * 1000 + rounded, return_inverse=True)
    table = [tukey_critical(level, int(value // 1000), value % 1000) for value in code.tolist()]
    return np.array(table)[where].reshape(freedom.shape)


def correct(p: np.ndarray, leaves_out: np.ndarray) -> np.ndarray:
    """Correct p over the headlines of each report, [R, M]; `leaves_out` marks those with an unstable architecture."""
    m = p.shape[-1]
    order = np.argsort(np.where(leaves_out, -np.inf, -p), axis=-1, kind="stable")
    counted = np.where(leaves_out, 1.0, p)
    stepped = np.minimum.accumulate(np.take_along_axis(counted, order, -1) * np.arange(1, m + 1), -1)
    result = np.empty_like(p)
    np.put_along_axis(result, order, stepped, -1)
    return np.where(leaves_out, np.minimum(m * p, 1.0), np.minimum(result, 1.0))


@dataclass(frozen=True)
class Rates:
    """Rates in percent of reports, unless stated otherwise."""

    false_best: float
    """Some headline says "best" although another stable architecture is as good or better."""
    false_statement: float
    """The same, or some pair is significant that has no such difference."""
    power: float
    """Of headlines: the first is called best."""
    coverage: float
    """All intervals hold; those of the diverging one, whose mean no seed is like, are not counted."""
    unstable: float
    """Of headlines: a steady architecture is called unstable."""
    diverging: float
    """Of headlines: the diverging one is called unstable."""


def false_statements(found: Verdicts, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mark the headlines, [R, M], with a false best, and those with a pair that is significant without a difference."""
    as_good = (means[None] <= means[:, None]) & ~np.eye(len(means), dtype=bool)  # [leader, other]
    false_best = found.is_best & (as_good[found.leader] & ~found.unstable).any(-1)
    true = means[found.j] - means[found.i]
    significant = np.abs(found.difference) > found.half_width
    return false_best, np.any(significant & (found.difference * true <= 0), axis=-1)


@dataclass(frozen=True)
class SequentialRates:
    """Rates of `seeds=auto` in percent of reports, unless stated otherwise."""

    false_best: float
    false_statement: float
    power: float
    """Of headlines: the first is called best."""
    seeds: float
    """Mean number of seeds of an architecture."""


def measure_sequential(design: Design, k: int, headlines: int, samples: int = SAMPLES) -> SequentialRates:
    """Simulate reports of one design with `seeds=auto`: looks until every headline is decided, as `is_decided` says."""
    rng = np.random.default_rng([k, headlines, *design.name.encode()])
    values, means = design.draw(rng, samples // headlines, headlines, k, LOOKS[-1]), design.means(k)
    is_over = np.zeros(len(values), dtype=bool)
    wrong, first, seeds = np.zeros((2, len(values)), dtype=bool), np.zeros(values.shape[:2], dtype=bool), 0.0
    for look, n in enumerate(LOOKS):
        found = judge(values[..., :n], LEVEL * share_of_look(look))
        leader = found.leader[..., None]
        is_open = (np.abs(found.difference) <= found.half_width) & np.isfinite(found.half_width)
        behind_leader = (found.i == leader) | (found.j == leader)
        is_decided = (found.is_best | ~(is_open & behind_leader).any(-1)).all(-1)
        ends = ~is_over & (is_decided | (n == LOOKS[-1]))
        best, pair = false_statements(found, means)
        wrong[:, ends] = np.stack([best.any(-1), (best | pair).any(-1)])[:, ends]
        first[ends] = (found.is_best & (found.leader == 0))[ends]
        seeds += n * float(ends.mean())
        is_over |= ends
    false_best, false_statement = 100 * float(wrong[0].mean()), 100 * float(wrong[1].mean())
    return SequentialRates(false_best, false_statement, 100 * float(first.mean()), seeds)


def measure(design: Design, k: int, n: int, headlines: int, samples: int = SAMPLES, seed: int = 0) -> Rates:
    """Simulate reports of one design."""
    rng = np.random.default_rng([seed, k, n, headlines, *design.name.encode()])
    found = judge(design.draw(rng, samples // headlines, headlines, k, n))
    means = design.means(k)
    false_best, false_pair = false_statements(found, means)
    true = means[found.j] - means[found.i]
    covered = np.abs(found.difference - true) <= found.half_width
    last = k - 1
    if design.has_diverging:
        covered |= found.j == last
    ordinary = found.unstable[..., :last] if design.has_diverging else found.unstable
    return Rates(
        false_best=100 * float(false_best.any(-1).mean()),
        false_statement=100 * float((false_best | false_pair).any(-1).mean()),
        power=100 * float((found.is_best & (found.leader == 0)).mean()),
        coverage=100 * float(covered.all((-2, -1)).mean()),
        unstable=100 * float(ordinary.any(-1).mean()),
        diverging=100 * float(found.unstable[..., last].mean()) if design.has_diverging else 0.0,
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    sides = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, sides, *rows)) + "\n"


def tables(samples: int = SAMPLES) -> str:
    """Write all tables in Markdown."""
    cells = [(k, m) for k in N_ARCHITECTURES for m in N_HEADLINES]

    def row(design: Design, k: int, m: int, *names: str) -> list[str]:
        rates = [measure(design, k, n, m, samples) for n in N_SEEDS]
        return [f"{getattr(each, name):.1f}" for name in names for each in rates]

    def head(*names: str) -> list[str]:
        return [f"{name}, {n} seeds" for name in names for n in N_SEEDS]

    errors = [
        [design.name, str(k), str(m), *row(design, k, m, "false_best", "false_statement", "coverage")]
        for design in NULLS
        for k, m in cells
    ]
    powers = [
        [design.name, str(k), str(m), *row(design, k, m, "power")]
        for design in (LEAD, LEAD_BESIDE_DIVERGING)
        for k, m in cells
    ]
    names = {True: ("unstable", "diverging"), False: ("unstable",)}
    found = [
        [design.name, str(k), *row(design, k, 1, *names[design.has_diverging]), *["-"] * (3 - 3 * design.has_diverging)]
        for design in (*NULLS[:3], DIVERGING)
        for k in N_ARCHITECTURES
    ]
    sequential = [
        [design.name, str(k), str(m), *(f"{getattr(each, name):.1f}" for name in SEQUENTIAL_COLUMNS)]
        for design in (*NULLS, LEAD, SMALL_LEAD)
        for k, m in cells
        for each in [measure_sequential(design, k, m, samples)]
    ]
    return "\n".join(
        [
            "Errors, in % of reports:\n",
            _table(
                ["design", "architectures", "headlines", *head("false best", "false statement", "coverage")], errors
            ),
            "Power, in % of headlines in which the first is called best:\n",
            _table(["design", "architectures", "headlines", *head("power")], powers),
            "Called unstable, in % of headlines with one in a report:\n",
            _table(["design", "architectures", *head("steady ones", "diverging one")], found),
            f"With `seeds=auto`, looks at {', '.join(map(str, LOOKS))} seeds, in % of reports:\n",
            _table(["design", "architectures", "headlines", *SEQUENTIAL_COLUMNS.values()], sequential),
        ]
    )


def main() -> int:
    text = DOCUMENT.read_text("utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text(f"{before}\n{tables()}\n{after}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
