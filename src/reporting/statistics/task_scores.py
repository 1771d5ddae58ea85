"""Scores on tasks of lm-eval: intervals over items and seeds, and which architectures differ.

Items and seeds are both samples, of possible items and of possible trainings. The variance of a difference is the sum
of both parts (min F'; Clark, 1973, J. Verbal Learn. Verbal Behav. 12), its degrees of freedom are Satterthwaite's.
Bonferroni's correction covers all pairs of architectures on all tasks of a report.
"""

# scipy brings no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from src.config.formatting import count_of
from src.reporting.data.json_values import Record, as_dict, as_floats, as_text
from src.reporting.data.runs import load_evaluation
from src.reporting.statistics.groups import Group
from src.reporting.statistics.significance import LEVEL

MIN_ITEMS = 10


class Scores(NamedTuple):
    """An architecture on the items of a task."""

    values: np.ndarray
    """(seeds, items)"""

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    def parts(self) -> list[tuple[float, int]]:
        """Return the variance of the mean that is due to seeds, and its degrees of freedom; none for a single seed."""
        n = len(self.values)
        return [(float(self.values.mean(axis=1).var(ddof=1)) / n, n - 1)] if n > 1 else []


class Interval(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether it does not contain zero."""
        return self.low > 0 or self.high < 0


class TaskComparison(NamedTuple):
    """Architectures of a group on the same items, the best first."""

    group: Group
    stage: str
    task: str
    metric: str
    scores: dict[str, Scores]
    """By architecture, from the best to the worst."""

    @property
    def n_items(self) -> int:
        return next(iter(self.scores.values())).values.shape[1]

    @property
    def n_pairs(self) -> int:
        return len(self.scores) * (len(self.scores) - 1) // 2


def mean_interval(scores: Scores) -> Interval:
    """Return the mean with its 95% interval over items, and over seeds where there are several."""
    found = _interval(scores.mean, scores.values.mean(axis=0), scores.parts(), LEVEL)
    if scores.values.min() >= 0 and scores.values.max() <= 1:
        return Interval(found.value, max(0.0, found.low), min(1.0, found.high))
    return found


def interval_of(items: Sequence[float | None]) -> Interval | None:
    """Return the mean of the items of one model with its 95% interval; None without enough known ones."""
    values = np.array([as_floats(list(items))])
    return mean_interval(Scores(values)) if values.size >= MIN_ITEMS and np.isfinite(values).all() else None


def difference(better: Scores, other: Scores, n_pairs: int) -> Interval:
    """Return by how much one mean is above another, with its interval, corrected for so many pairs."""
    gaps = better.values.mean(axis=0) - other.values.mean(axis=0)
    return _interval(float(gaps.mean()), gaps, [*better.parts(), *other.parts()], LEVEL / n_pairs)


def _interval(value: float, by_item: np.ndarray, parts: list[tuple[float, int]], level: float) -> Interval:
    from scipy.special import stdtrit

    n = len(by_item)
    parts = [part for part in [(float(by_item.var(ddof=1)) / n, n - 1), *parts] if part[0] > 0]
    variance = sum(part for part, _ in parts)
    if not variance:
        return Interval(value, value, value)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(stdtrit(freedom, 1 - level / 2)) * math.sqrt(variance)
    return Interval(value, value - half, value + half)


def compare_tasks(groups: Sequence[Group]) -> list[TaskComparison]:
    """Compare the architectures of each group on every task that all of its runs have with the same items."""
    found: list[TaskComparison] = []
    for group in groups:
        evaluations = {
            name: [load_evaluation(run["run_dir"]) for run in runs] for name, runs in group.by_architecture().items()
        }
        everything = [seed for seeds in evaluations.values() for seed in seeds]
        for stage in everything[0]:
            for task in everything[0][stage]["tasks"]:
                entries = {
                    name: [as_dict(seed.get(stage, {}).get("tasks", {}).get(task)) for seed in seeds]
                    for name, seeds in evaluations.items()
                }
                if (one := _compare(group, stage, task, entries)) is not None:
                    found.append(one)
    return found


def _compare(group: Group, stage: str, task: str, entries: dict[str, list[Record]]) -> TaskComparison | None:
    every = [entry for seeds in entries.values() for entry in seeds]
    metric = next((name for name, each in as_dict(every[0].get("metrics")).items() if as_dict(each).get("items")), None)
    if metric is None or len({as_text(entry.get("items_sha256")) for entry in every}) != 1:
        return None
    first = as_dict(every[0]["metrics"][metric])
    items = {
        name: [as_floats(as_dict(as_dict(entry.get("metrics")).get(metric)).get("items")) for entry in seeds]
        for name, seeds in entries.items()
    }
    lengths = {len(seed) for seeds in items.values() for seed in seeds}
    if len(lengths) != 1 or min(lengths) < MIN_ITEMS:
        return None
    scores = {name: Scores(np.array(seeds)) for name, seeds in items.items()}
    if not all(np.isfinite(each.values).all() for each in scores.values()):
        return None
    sign = -1 if first.get("higher_is_better") is not False else 1
    ordered = dict(sorted(scores.items(), key=lambda item: sign * item[1].mean))
    return TaskComparison(group, stage, task, metric, ordered)


def behind_best(comparison: TaskComparison, n_pairs: int) -> dict[str, Interval]:
    """Return, for each architecture but the best, by how much it is worse, with its corrected interval."""
    (_, best), *others = comparison.scores.items()
    found = {name: difference(best, other, n_pairs) for name, other in others}
    return {
        name: each if each.value >= 0 else Interval(-each.value, -each.high, -each.low) for name, each in found.items()
    }


def task_lines(groups: Sequence[Group]) -> list[str]:
    """Write the verdict on each task: a line each, then the method. groups: those that can have a verdict."""
    compared = compare_tasks(groups)
    n_pairs, lines = sum(each.n_pairs for each in compared), list[str]()
    for each in compared:
        behind = behind_best(each, n_pairs)
        best, score = next(iter(each.scores.items()))
        worse = [_behind(name, gap) for name, gap in behind.items() if gap.is_significant]
        open_ones = [_behind(name, gap) for name, gap in behind.items() if not gap.is_significant]
        parts = [f"{'no significant best; ' if open_ones else ''}best mean {best} {score.mean:.3f}"]
        parts += [f"significantly worse {', '.join(worse)}"] if worse else []
        parts += [f"not significantly worse {', '.join(open_ones)}"] if open_ones else []
        title = f"{each.group.title}: {each.stage}: task {each.task} ({each.metric})"
        lines.append(f"{title}: {'; '.join(parts)} ({count_of(each.n_items, 'item')})")
    if lines:
        lines.append(
            "Tasks: behind by (interval); intervals over items and seeds (min F'), 95% over all "
            f"{count_of(n_pairs, 'pair')} of the tasks (Bonferroni)."
        )
    return lines


def _behind(name: str, gap: Interval) -> str:
    return f"{name} by {gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f})"
