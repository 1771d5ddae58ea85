"""The answer of a report: one sentence for each stage of each group, the same on the page, in Markdown and in the
terminal.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

import pandas as pd

from src.config.formatting import count_of
from src.reporting.data.metric import Metric, metric_of
from src.reporting.data.runs import split_of, stage_names, to_records
from src.reporting.statistics.groups import SPLITS, ranking_groups, stage_values
from src.reporting.statistics.significance import Pair
from src.reporting.statistics.verdicts import TRIAL, Headline, compare_headlines, count_seeds, reason_for_no_verdict

MAX_SETS = 3
"""Sets of architectures behind the best without a significant difference that are named; more are counted as pairs."""


def answer_lines(runs: pd.DataFrame, margin: float | None = None) -> list[str]:
    """Write what was found after each stage: the verdict, or the results and why there is none.

    Empty without finished runs, and for trials of learning rates. margin: as for `verdict_lines`.
    """
    records, stages = to_records(runs), stage_names(runs)
    if any(record["contract"].get("learning_rate_search") == TRIAL for record in records):
        return []
    split, groups = split_of(records, stages), ranking_groups(records)
    headlines = {(each.group.title, each.stage): each for each in compare_headlines(runs)}
    lines: list[str] = []
    for group in groups:
        for stage in stages:
            if headline := headlines.get((group.title, stage)):
                words = _answer(headline, margin)
            elif values := None if group.has_repeated_seeds() else stage_values(group, stage, split):
                words = _results(values, metric_of(group.runs, stage), SPLITS[split], reason_for_no_verdict(group))
            else:
                continue
            lines.append(f"{f'{group.title}, ' if len(groups) > 1 else ''}{stage}: {words}")
    return lines


def _results(values: Mapping[str, Sequence[float]], metric: Metric, split: str, reason: str | None) -> str:
    """Write the means of a stage without a verdict, the best first."""
    costs = sorted(((name, fmean(seeds)) for name, seeds in values.items()), key=lambda one: one[1])
    (first, best), *others = [(name, metric.to_cost(cost)) for name, cost in costs]
    seeds = count_of(len(values[first]), "seed")
    if not others:
        return f"{first} has {best:.3f} {metric.of_split.format(split=split).removeprefix('the ')} ({seeds})"
    rest = join_words([f"{name} {mean:.3f}" for name, mean in others])
    return f"{first} {metric.leads.format(split=split)}, {best:.3f}, before {rest}; {reason}"


def join_words(words: Sequence[str]) -> str:
    """Write a list as in a sentence: a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _answer(headline: Headline, margin: float | None) -> str:
    comparison, behind = headline.comparison, headline.comparison.behind_leader()
    if headline.has_best:
        better = f" {headline.metric.unit} better"
        gaps = [f"{_gap(pair)}{better * (not i)} than {pair.other}" for i, pair in enumerate(behind)]
        parts = [f"{comparison.leader} learned most: {join_words(gaps)}"]
        parts += _open_sets([pair for pair in comparison.pairs if pair.better != comparison.leader])
    else:
        unit = f" {headline.metric.unit} behind"
        by_result: dict[str, list[str]] = {}
        for pair in behind:
            by_result.setdefault(headline.result(pair, margin), []).append(f"{pair.other} ({_gap(pair)}{unit})")
            unit = ""
        lead = [f"{comparison.leader} leads"]
        if equivalent := by_result.get("equivalent"):
            lead.append(f"equivalent within {margin} to {join_words(equivalent)}")
        if undecided := by_result.get("not significant"):
            lead.append(f"not significantly before {join_words(undecided)}")
        parts = [", ".join(lead)]
        if worse := by_result.get("significant"):
            parts.append(f"{join_words(worse)} {'is' if len(worse) == 1 else 'are'} significantly worse")
    if unstable := list(comparison.unstable):
        verb = "is" if len(unstable) == 1 else "are"
        parts.append(f"{join_words(unstable)} {verb} unstable at this learning rate and not ranked")
    if headline.group.search_differences:
        parts.append("learning rates were searched for other settings")
    if headline.group.is_unsearched:
        parts.append("learning rates were not searched")
    return f"{'; '.join(parts)} ({count_seeds(comparison)})"


def _open_sets(pairs: Sequence[Pair]) -> list[str]:
    """Name the sets of architectures of which no two differ significantly, as one part of a sentence, or none.

    A set is a run of architectures in the order of their means, or a pair that is in no such run.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.better, pair.other)))
    open_pairs = [(pair.better, pair.other) for pair in pairs if not pair.is_significant]
    runs = [tuple(names[start:end]) for start in range(len(names)) for end in range(start + 2, len(names) + 1)]
    sets = list[tuple[str, ...]]()
    for some in [*sorted(runs, key=len, reverse=True), *open_pairs]:
        if set(combinations(some, 2)) <= set(open_pairs) and not any(set(some) <= set(larger) for larger in sets):
            sets.append(some)
    if len(sets) > MAX_SETS:
        return [f"no significant difference in {len(open_pairs)} of the {len(pairs)} other pairs"]
    sets.sort(key=lambda some: names.index(some[0]))
    named = [f"{'among' if len(some) > 2 else 'between'} {join_words(some)}" for some in sets]
    return [f"no significant difference {join_words(named)}"] if sets else []


def _gap(pair: Pair) -> str:
    return f"{pair.difference:.3f} ± {pair.half_width:.3f}"
