"""Write the verdict on a directory of runs in words, or the reason why there is none.

A verdict needs equal contracts (src/config/comparability.py) and at least three seeds of each architecture. A
*headline* is a stage of a group of such runs. One correction covers all headlines of a report.
"""

import math
from collections.abc import Sequence
from itertools import takewhile
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd

from src.config.comparability import SPEED_KEYS, differences, has_own_draw
from src.config.formatting import NOTHING, count_of
from src.reporting.data.json_values import Record, mean_value
from src.reporting.data.metric import Metric, metric_of
from src.reporting.data.runs import branches_of, split_of, stage_names, to_records
from src.reporting.data.shared_results import shared
from src.reporting.statistics.costs import cost_line
from src.reporting.statistics.groups import RULES, SPLITS, Group, ranking_groups, stage_values
from src.reporting.statistics.sample_size import POWER, seeds_needed
from src.reporting.statistics.sequential import LOOKS, share_of_look
from src.reporting.statistics.significance import (
    LEVEL,
    MIN_SEEDS,
    Comparison,
    Pair,
    compare_stages,
    correct_for_headlines,
    mean_and_half_width,
)
from src.reporting.statistics.task_scores import task_lines

DIFFERENCE = 0.02
"""Bits per byte for which the number of seeds is given, unless the user states a margin."""
METHOD = (
    "Verdicts are on {quantity}; seeds are independent replicates; sd: standard deviation over "
    "seeds. best: ahead of every other by Welch's t test, {correction}5% level over the whole report. significantly "
    "worse, and the intervals of the table Pairs: simultaneous over all pairs{headlines}, the wider of Tukey-Kramer's "
    "and Games-Howell's, 95%."
)
TRIAL = "trial"
"""Value of `learning_rate_search` in the contract of a search's trial."""


class Headline(NamedTuple):
    """One stage of a group, compared."""

    group: Group
    stage: str
    comparison: Comparison
    p: float
    """That the leader is not the best, corrected for all headlines of the report."""

    @property
    def metric(self) -> Metric:
        """What the stage is judged by; the comparison is of its costs."""
        return metric_of(self.group.runs, self.stage)

    @property
    def has_best(self) -> bool:
        """Whether the leader is significantly better than every other stable architecture."""
        return self.p < LEVEL

    def result(self, pair: Pair, margin: float | None = None) -> str:
        """Return the result of a pair in one or two words."""
        if pair.is_significant:
            return "significant"
        if self.has_best and pair.better == self.comparison.leader:
            return "significant as best"
        return "equivalent" if margin is not None and pair.is_equivalent(margin) else "not significant"


@shared
def compare_headlines(runs: pd.DataFrame) -> list[Headline]:
    """Compare the architectures of every group and stage that can have a verdict."""
    records, stages = to_records(runs), stage_names(runs)
    split = split_of(records, stages)
    found = [
        (group, {stage: values for stage in stages if (values := stage_values(group, stage, split)) is not None})
        for group in ranking_groups(records)
        if reason_for_no_verdict(group) is None
    ]
    n, share = sum(len(values) for _, values in found), _level_share(records)
    compared = [
        (group, stage, comparison)
        for group, values in found
        for stage, comparison in zip(values, compare_stages(list(values.values()), n / share), strict=True)
    ]
    corrected = correct_for_headlines([comparison for *_, comparison in compared])
    return [Headline(*each, min(1.0, p / share)) for each, p in zip(compared, corrected, strict=True)]


@shared
def members_by_result(runs: pd.DataFrame) -> list[tuple[Group, dict[str, list[Record]]]]:
    """Return each group with its architectures sorted by bits per byte after the last stage, unstable ones last."""
    records, stages = to_records(runs), stage_names(runs)
    branches = {branch for names in branches_of(runs).values() for branch in names}
    last, split = [stage for stage in stages if stage not in branches][-1:], split_of(records, stages)
    unstable = {(each.group.title, name) for each in compare_headlines(runs) for name in each.comparison.unstable}

    def place(group: Group, name: str, members: list[Record]) -> tuple[bool, float]:
        metrics = [metric_of(members, stage) for stage in last]
        values = [mean_value(members, f"{stage}/{split}_{m.key}") for stage, m in zip(last, metrics, strict=True)]
        costs = [m.to_cost(value) for m, value in zip(metrics, values, strict=True) if value is not None]
        return (group.title, name) in unstable, next(iter(costs), math.inf)

    return [
        (group, dict(sorted(group.by_architecture().items(), key=lambda item: place(group, *item))))
        for group in ranking_groups(records)
    ]


def is_decided(runs: pd.DataFrame, margin: float | None = None) -> bool:
    """Whether each headline names a best, or finds all that is not significant equivalent within the margin."""
    headlines = compare_headlines(runs)
    return bool(headlines) and all(
        headline.has_best
        or all(
            pair.is_significant or (margin is not None and pair.is_equivalent(margin))
            for pair in headline.comparison.behind_leader()
        )
        for headline in headlines
    )


def _level_share(records: Sequence[Record]) -> float:
    """Return the share of the level that this report may spend: less than all at a look of `seeds=auto`."""
    looks = {int(record["look"]) for record in records if record.get("look") is not None}
    return min((share_of_look(look) for look in looks if look < len(LOOKS)), default=1.0)


def verdict_lines(runs: pd.DataFrame, margin: float | None = None) -> list[str]:
    """Write the verdict on these runs: lines for each group and stage, then what limits it.

    margin: the difference, in bits per byte, within which architectures count as equivalent (`verdict.margin`).
    """
    records, lines = to_records(runs), list[str]()
    if any(record["contract"].get("learning_rate_search") == TRIAL for record in records):
        return ["no verdict: these runs are trials of learning rates, on seeds that no comparison uses"]
    groups, stages, split = ranking_groups(records), stage_names(runs), split_of(records, stage_names(runs))
    headlines = compare_headlines(runs)
    compared = {(each.group.title, each.stage): each for each in headlines}
    for group in groups:
        if (problem := reason_for_no_verdict(group)) is not None:
            lines.append(f"{group.title}: {problem}")
            continue
        for stage in stages:
            if (headline := compared.get((group.title, stage))) is None:
                found = [f"no verdict: some runs have no {SPLITS[split]} loss"]
            else:
                found = _headline_lines(headline, margin, len(headlines))
                if group.search_differences:
                    found[0] += " (rates searched for other settings)"
            lines += [f"{group.title}: {stage}: {line}" for line in found]
        if cost := cost_line(group.by_architecture()):
            lines.append(f"{group.title}: {cost}")
    if not groups:
        lines.append("no verdict: no run is finished")
    for size in dict.fromkeys(group.size for group in groups):
        ranked = {run["architecture"] for group in groups if group.size == size for run in group.runs}
        missing = dict.fromkeys(str(run["architecture"]) for run in records if run["size"] == size)
        if names := [name for name in missing if name not in ranked]:
            lines.append(f"{size}: no finished run of {', '.join(names)}: not ranked")
    lines += task_lines([group for group in groups if reason_for_no_verdict(group) is None])
    lines += _contract_lines(groups)
    if n := len(headlines):
        correction = f"corrected for {n} headlines (Hochberg), " if n > 1 else ""
        both = f" and {n} headlines (Bonferroni)" if n > 1 else ""
        quantities = dict.fromkeys(each.metric.of_split.format(split=SPLITS[split]) for each in headlines)
        lines.append(METHOD.format(quantity=" and ".join(quantities), correction=correction, headlines=both))
        if (share := _level_share(records)) < 1:
            looks = ", ".join(map(str, LOOKS))
            lines.append(f"seeds=auto: looks at {looks} seeds share the 5%; this one is tested at {LEVEL * share:.2%}.")
    return lines


def comparability_warnings(records: Sequence[Record]) -> list[str]:
    """Return the reasons why runs with these contracts cannot get a verdict, whatever their results.

    records: with `run`, `size`, `architecture`, `seed` and `contract`, and `status` done.
    """
    groups = ranking_groups(records)
    lines = [f"{group.title}: {problem}" for group in groups if (problem := reason_for_no_verdict(group)) is not None]
    return lines + _contract_lines(groups)


def reason_for_no_verdict(group: Group) -> str | None:
    """Return why a group gets no verdict whatever its results, or None."""
    members = group.by_architecture()
    if len(members) < 2:
        return f"not ranked: no other architecture than {next(iter(members))} has this contract"
    if group.has_repeated_seeds():
        return "no verdict: an architecture has several runs of one seed, which differ by more than the seed"
    if group.has_unequal_text():
        return "no verdict: runs of one seed have different text"
    fewest = min(members, key=lambda name: len(members[name]))
    if (n := len(members[fewest])) < MIN_SEEDS:
        owner = "" if all(len(runs) == n for runs in members.values()) else f" of {fewest}"
        return f"no verdict: {count_of(n, 'seed')}{owner}; at least {MIN_SEEDS} are needed"
    if group.budget == "time" and (problem := _unequal_times(group)):
        return f"no verdict: {problem}"
    return None


TIME_TOLERANCE = 0.1
"""The longest of runs with equal time may have trained so much longer than the shortest."""
SPEED_TOLERANCE = 0.25
"""The fastest run of an architecture may be so much faster than its slowest: they differ by their seed alone."""


def _unequal_times(group: Group) -> str | None:
    """Return why runs with equal time trained unequally, or None."""
    if problem := group.speed_problem():
        return f"{problem}, so that equal time gave unequal work"
    times = [run["tokens"] / run["tokens_per_second"] for run in group.runs if run.get("tokens_per_second")]
    if times and max(times) > (1 + TIME_TOLERANCE) * min(times):
        return f"the runs trained from {min(times):.0f} to {max(times):.0f} s, so the budget was not equal time"
    for name, runs in group.by_architecture().items():
        speeds = [run["tokens_per_second"] for run in runs if run.get("tokens_per_second")]
        if speeds and max(speeds) > (1 + SPEED_TOLERANCE) * min(speeds):
            return f"{name} trained at {min(speeds):,.0f} to {max(speeds):,.0f} tokens/s, so the machine was not idle"
    return None


def _headline_lines(headline: Headline, margin: float | None, n_headlines: int) -> list[str]:
    """Write the ranking, then what is equivalent and how many seeds would decide what is not significant."""
    comparison, metric = headline.comparison, headline.metric
    stable, pairs = comparison.stable, comparison.behind_leader()

    def show(names: Sequence[str]) -> str:
        means = {name: metric.to_cost(fmean(stable[name])) for name in names}
        return ", ".join(f"{name} {mean:.3f} (sd {stdev(stable[name]):.3f})" for name, mean in means.items())

    if headline.has_best:
        of = " of the stable" if comparison.unstable else ""
        parts = [f"best{of} is {show([comparison.leader])}", f"significantly worse {show([p.other for p in pairs])}"]
        open_pairs: list[Pair] = []
    else:
        # A worse mean is never placed above a better one that is significantly worse, however noisy it is.
        first = [pair.other for pair in takewhile(lambda pair: not pair.is_significant, pairs)]
        worse = [pair.other for pair in pairs if pair.is_significant]
        open_pairs = [pair for pair in pairs if not pair.is_significant]
        noisy = [pair.other for pair in open_pairs if pair.other not in first]
        parts = [f"no significant best; {metric.best} mean {show([comparison.leader])}"]
        for words, names in (
            ("not significantly worse", first),
            ("significantly worse", worse),
            ("worse in the mean, but too noisy to be significantly worse", noisy),
        ):
            parts += [f"{words} {show(names)}"] if names else []
    if comparison.unstable:
        seeds = [
            f"{name} ({', '.join(f'{metric.to_cost(v):.3f}' for v in values)})"
            for name, values in comparison.unstable.items()
        ]
        parts.append(f"unstable at this learning rate, so neither averaged nor ranked: {', '.join(seeds)}")
    return [
        f"{'; '.join(parts)} ({count_seeds(comparison)})",
        *_undecided(comparison, open_pairs, margin, n_headlines, metric.unit),
    ]


def count_seeds(comparison: Comparison) -> str:
    """Write how many seeds the architectures have."""
    counts = {len(values) for values in (*comparison.stable.values(), *comparison.unstable.values())}
    return f"{min(counts)} seeds" if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"


def _undecided(
    comparison: Comparison, pairs: list[Pair], margin: float | None, n_headlines: int, unit: str
) -> list[str]:
    """Say which of these pairs are equivalent within the margin, and how many seeds would decide the others."""
    lines: list[str] = []
    if margin is not None and (equal := [pair.other for pair in pairs if pair.is_equivalent(margin)]):
        lines.append(f"equivalent to {comparison.leader} within {margin:g} {unit}: {', '.join(equal)}")
        pairs = [pair for pair in pairs if pair.other not in equal]
    if not pairs:
        return lines
    difference, needs = margin or DIFFERENCE, list[str]()
    for pair in pairs:
        values = [comparison.stable[name] for name in (pair.better, pair.other)]
        spread = (sum(stdev(seeds) ** 2 for seeds in values) / 2) ** 0.5
        needed, fewest = seeds_needed(difference, spread, n_headlines), min(map(len, values))
        more = "too many" if needed is None else str(max(1, needed - fewest))
        needs.append(f"{pair.other} {more}")
    start = f"no significant difference from {comparison.leader}; more seeds that would decide a difference of"
    return [*lines, f"{start} {difference:g} {unit} (power {POWER:g}): {', '.join(needs)}"]


def show_mean(values: Sequence[float], spec: str = ".3f") -> str:
    """Write a mean, with half its 95% interval where there are three values or more; a dash where there is none."""
    if not values:
        return NOTHING
    mean, half = mean_and_half_width(values)
    return f"{mean:{spec}}" + (f"±{half:.3f}" if half is not None else "")


def _contract_lines(groups: list[Group]) -> list[str]:
    lines: list[str] = []
    shared_host = False
    for size in dict.fromkeys(group.size for group in groups):
        contracts = {run["run"]: run["contract"] for group in groups if group.size == size for run in group.runs}
        is_lettered = any(group.is_lettered for group in groups if group.size == size)
        marked = () if is_lettered else RULES
        found = {line.split(":")[0]: line for line in differences(contracts, marked)}
        why = "; ".join(found.values())
        if found.keys() - set(SPEED_KEYS):
            lines.append(f"{size}: not comparable where contracts differ, so ranked only within the same one: {why}")
        elif found:
            lines.append(f"{size}: the loss may be compared, speed, memory and time may not: {why}")
        shared_host = shared_host or any(contract.get("host_shared") for contract in contracts.values())
    if shared_host:
        lines.append("Jobs shared the machine: speed and time say nothing about the architectures.")
    if len({group.size for group in groups}) > 1:
        lines.append("Runs of different sizes are not ranked against each other.")
    contracts = [run["contract"] for group in groups for run in group.runs]
    for differences_of_search in dict.fromkeys(str(one.get("search_differences") or "") for one in contracts):
        if differences_of_search:
            lines.append(f"Learning rates were searched for other settings: {differences_of_search}")
    if any(map(has_own_draw, contracts)):
        lines.append("Each seed has its own draw of the text, which sd and intervals include.")
    if any(group.is_unsearched for group in groups):
        lines.append("Learning rates were not searched: the one that all share may suit some architectures better.")
    return lines
