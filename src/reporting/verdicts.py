"""Say which architecture came out best, and above all when nothing can be said.

A verdict needs equal contracts (src/contract.py) and at least three seeds. Seeds are paired, since runs of the same
seed see the same batches: each pair of architectures is compared by the t test on the differences between their
runs (scipy), corrected for the number of pairs (Holm, 1979).
"""

# scipy brings no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd

from src.contract import SPEED_KEYS, comparable_groups, differences
from src.reporting.load import split_of, stage_names, to_records
from src.reporting.values import Record
from src.units import NOTHING

MIN_SEEDS = 3
LEVEL = 0.05
"""Chance of calling equals different, over all pairs of a verdict together."""

METHOD = (
    "Verdicts are on bits per byte of the {split} text: paired t tests over seeds, p corrected for all pairs (Holm), "
    "5% level; ±: half a 95% interval, of a difference over paired seeds; d: mean difference over its standard "
    "deviation."
)
TRIAL = "trial"
"""What the contract of a run says that is part of a search for learning rates."""
LETTERED = "contract "
SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True)
class Group:
    """Finished runs of one size with equal contracts: these, and only these, are ranked against each other."""

    size: str
    mark: str
    """Tells apart groups of the same size: by matching rule and budget, else by a letter; empty where there is one."""
    runs: list[Record]

    @property
    def is_lettered(self) -> bool:
        """Whether the matching rule and the budget do not tell it apart."""
        return self.mark.startswith(LETTERED)

    @property
    def short(self) -> str:
        """The mark where there is little room."""
        return self.mark.removeprefix(LETTERED)

    @property
    def title(self) -> str:
        return f"{self.size}, {self.mark}" if self.mark else self.size

    @property
    def budget(self) -> str:
        """What each run was given alike: tokens, flops or time."""
        return str(self.runs[0]["contract"].get("training.budget", "tokens"))

    def by_architecture(self) -> dict[str, list[Record]]:
        """Return the runs of each architecture."""
        members: dict[str, list[Record]] = {}
        for run in self.runs:
            members.setdefault(str(run["architecture"]), []).append(run)
        return members

    def has_twins(self) -> bool:
        """Whether an architecture has two runs of the same seed: then they differ by more than the seed."""
        return any(len({run["seed"] for run in members}) < len(members) for members in self.by_architecture().values())


def ranking_groups(records: Sequence[Record]) -> list[Group]:
    """Group the finished runs by size and contract, in order of appearance."""
    sizes: dict[str, dict[str, Record]] = {}
    for record in records:
        if record["status"] == "done":
            sizes.setdefault(str(record["size"]), {})[record["run"]] = record
    split = {
        size: comparable_groups({name: run["contract"] for name, run in runs.items()}) for size, runs in sizes.items()
    }
    members = [(size, [sizes[size][name] for name in names]) for size, groups in split.items() for names in groups]
    if any(len(groups) > 1 for groups in split.values()):
        rules = [(size, *_rules(runs[0])) for size, runs in members]
        told = len(set(rules)) == len(rules)
        marks = [_mark(rule[1:]) if told else f"{LETTERED}{_letter(index)}" for index, rule in enumerate(rules)]
    else:
        marks = [""] * len(members)
    return [Group(size, mark, runs) for (size, runs), mark in zip(members, marks, strict=True)]


RULES = ("match", "training.budget", "stages")
"""Keys of a contract that name a comparison: others than these make runs that no comparison is about."""
BUDGETS = {"tokens": "equal tokens", "flops": "equal FLOPs", "time": "equal time"}


def _rules(run: Record) -> tuple[str, str]:
    return str(run["contract"].get("match")), str(run["contract"].get("training.budget", "tokens"))


def _mark(rules: tuple[str, str]) -> str:
    return f"match {rules[0]}, {BUDGETS.get(rules[1], rules[1])}"


def verdict_lines(runs: pd.DataFrame) -> list[str]:
    """Write the verdict on these runs: a line a group and stage, then what limits it."""
    records, lines = to_records(runs), list[str]()
    if any(record["contract"].get("learning_rate_search") == TRIAL for record in records):
        return ["no verdict: these runs are trials of learning rates, on seeds that no comparison uses"]
    groups, split = ranking_groups(records), split_of(records, stage_names(runs))
    for group in groups:
        lines += [f"{group.title}: {line}" for line in _group_lines(group, stage_names(runs), split)]
    if not groups:
        lines.append("no verdict: no run is finished")
    for size in dict.fromkeys(group.size for group in groups):
        ranked = {run["architecture"] for group in groups if group.size == size for run in group.runs}
        missing = dict.fromkeys(str(run["architecture"]) for run in records if run["size"] == size)
        if names := [name for name in missing if name not in ranked]:
            lines.append(f"{size}: no finished run of {', '.join(names)}: not ranked")
    lines += _contract_lines(groups)
    if any("±" in line for line in lines):
        lines.append(METHOD.format(split=SPLITS[split]))
    return lines


def breach_lines(records: Sequence[Record]) -> list[str]:
    """Say what would keep runs with these contracts from a verdict, whatever comes of them.

    records: with `run`, `size`, `architecture`, `seed` and `contract`, and `status` done.
    """
    groups = ranking_groups(records)
    lines = [f"{group.title}: {line}" for group in groups for line in _group_lines(group, [])]
    return lines + _contract_lines(groups)


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its 95% confidence interval; None with fewer than three values."""
    if len(values) < MIN_SEEDS:
        return fmean(values), None
    return fmean(values), _t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))


class Difference(NamedTuple):
    """How far the first of two is above the second, over paired seeds."""

    mean: float
    half_width: float
    """Of the 95% confidence interval."""
    effect: float
    """The mean over the standard deviation of the differences (Cohen's d_z)."""
    p: float
    """Two-sided, of the paired t test; not corrected."""


def compare_paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare values of the same seeds, three at least."""
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    mean, spread = fmean(gaps), stdev(gaps)
    if spread == 0:
        return Difference(mean, 0.0, math.copysign(math.inf, mean) if mean else 0.0, 0.0 if mean else 1.0)
    freedom, error = len(gaps) - 1, spread / math.sqrt(len(gaps))
    return Difference(mean, _t_quantile(freedom) * error, mean / spread, 2 * _t_tail(abs(mean) / error, freedom))


def _t_quantile(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - LEVEL / 2))


def _t_tail(t: float, freedom: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))


def holm(p_values: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Correct p-values for their number (Holm, 1979)."""
    corrected, largest = dict[tuple[str, str], float](), 0.0
    for index, (pair, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - index)))
        corrected[pair] = largest
    return corrected


def ranked_pairs(runs: pd.DataFrame) -> list[tuple[Group, str, "Pair"]]:
    """Compare every pair of architectures wherever there is a verdict: (group, stage, pair)."""
    records, stages = to_records(runs), stage_names(runs)
    split = split_of(records, stages)
    return [
        (group, stage, pair)
        for group in ranking_groups(records)
        if _refusal(group) is None
        for stage in stages
        if (values := _paired_values(group, stage, split)) is not None
        for pair in compare_all(values)
    ]


def _group_lines(group: Group, stages: list[str], split: str = "val") -> list[str]:
    if (problem := _refusal(group)) is not None:
        return [problem]
    lines: list[str] = []
    for stage in stages:
        if (values := _paired_values(group, stage, split)) is None:
            lines.append(f"{stage}: no verdict: some runs have no {SPLITS[split]} loss")
        else:
            lines += [f"{stage}: {line}" for line in _ranking_lines(values)]
    return lines


def _refusal(group: Group) -> str | None:
    """Say why nothing can be said of a group, whatever came out."""
    members, seeds = group.by_architecture(), _shared_seeds(group)
    if len(members) < 2:
        return f"not ranked: no other architecture than {next(iter(members))} has this contract"
    if group.has_twins():
        return "no verdict: an architecture has several runs of one seed, which differ by more than the seed"
    if len(seeds) < MIN_SEEDS:
        shared = "" if all(len(runs) == len(seeds) for runs in members.values()) else " in common"
        return f"no verdict: {len(seeds)} seed{'s' * (len(seeds) != 1)}{shared}; at least {MIN_SEEDS} are needed"
    if group.budget == "time" and (problem := _unequal_times(group)):
        return f"no verdict: {problem}"
    return None


def _shared_seeds(group: Group) -> set[object]:
    """Return the seeds that all architectures have."""
    return set[object].intersection(*({run["seed"] for run in runs} for runs in group.by_architecture().values()))


def _paired_values(group: Group, stage: str, split: str) -> dict[str, list[float]] | None:
    """Return bits per byte of each architecture, seeds in the same order; None where a run has none."""
    seeds, values = _shared_seeds(group), dict[str, list[Any]]()
    for name, runs in group.by_architecture().items():
        paired = sorted((run for run in runs if run["seed"] in seeds), key=lambda run: run["seed"])
        values[name] = [run[f"{stage}/{split}_bits_per_byte"] for run in paired]
    return None if any(value is None for row in values.values() for value in row) else values


TIME_TOLERANCE = 0.1
"""The longest of runs with equal time may have trained so much longer than the shortest."""


def _unequal_times(group: Group) -> str | None:
    """Say why runs that were to train equally long did not."""
    if any(run["contract"].get("host_shared") for run in group.runs):
        return "jobs shared the machine, so that equal time gave unequal work"
    if len(comparable_groups({run["run"]: run["contract"] for run in group.runs}, speed=True)) > 1:
        return "the runs had other devices, threads or versions, so that equal time gave unequal work"
    times = [run["tokens"] / run["tokens_per_second"] for run in group.runs if run.get("tokens_per_second")]
    if times and max(times) > (1 + TIME_TOLERANCE) * min(times):
        return f"the runs trained from {min(times):.0f} to {max(times):.0f} s, so the budget was not equal time"
    return None


class Pair(NamedTuple):
    """Two architectures over the same seeds."""

    better: str
    """By the mean."""
    other: str
    difference: Difference
    p: float
    """Corrected for all pairs of the verdict."""

    @property
    def is_apart(self) -> bool:
        return self.p < LEVEL


def compare_all(values: dict[str, list[float]]) -> list[Pair]:
    """Compare each pair of architectures, the best by their means first.

    values: bits per byte of every architecture, seeds in the same order.
    """
    order = sorted(values, key=lambda name: fmean(values[name]))
    found = {pair: compare_paired(values[pair[1]], values[pair[0]]) for pair in combinations(order, 2)}
    corrected = holm({pair: difference.p for pair, difference in found.items()})
    return [Pair(*pair, difference, corrected[pair]) for pair, difference in found.items()]


def _ranking_lines(values: dict[str, list[float]]) -> list[str]:
    """Name the best, then the pairs that are told apart, then how many are not; `values` as for `compare_all`."""
    pairs, first = compare_all(values), min(values, key=lambda name: fmean(values[name]))
    with_first = [pair for pair in pairs if pair.better == first]
    behind, level = ([pair.other for pair in with_first if pair.is_apart is apart] for apart in (True, False))

    def show(names: list[str]) -> str:
        return ", ".join(f"{name} {show_mean(values[name])}" for name in names)

    seeds = f"{len(values[first])} seeds"
    if not level:
        line = f"best is {show([first])}; behind it {show(behind)} ({seeds})"
    else:
        rest = f"; behind the first {show(behind)}" if behind else ""
        line = f"indistinguishable at the top: {show([first, *level])}{rest} ({seeds})"
    apart = [pair for pair in pairs if pair.is_apart]
    lines = [line, *(f"{pair.better} beats {pair.other} by {_size_of(pair, seeds)}" for pair in apart)]
    if len(pairs) > 1 and (together := len(pairs) - len(apart)):
        lines.append(f"{together} of {len(pairs)} pairs {'is' if together == 1 else 'are'} indistinguishable")
    return lines


def _size_of(pair: Pair, seeds: str) -> str:
    mean, half, effect, _ = pair.difference
    return f"{mean:.3f} ± {half:.3f} bits per byte ({seeds}, p={pair.p:.2g}, d={effect:.1f})"


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
        found = {line.split(":")[0]: line for line in differences(contracts)}
        if not any(group.is_lettered for group in groups if group.size == size):  # the marks tell the rest
            found = {key: line for key, line in found.items() if key not in RULES}
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
    if any(contract.get("learning_rate_search") == "none" for contract in contracts):
        lines.append("Learning rates were not searched: the one that all share may suit some architectures better.")
    return lines


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"
