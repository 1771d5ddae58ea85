"""The title of a report: what a person called the sweep, or the question that its runs answer."""

from collections.abc import Callable, Sized

import pandas as pd

from src.config.formatting import show_flops, show_time
from src.reporting.data.json_values import Record
from src.reporting.data.runs import finished_records, stage_names, to_records
from src.reporting.statistics.groups import Group, ranking_groups
from src.reporting.statistics.verdicts import TRIAL

NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()


def question_of(runs: pd.DataFrame) -> str:
    """Write the question that these runs answer, such as "Which of six architectures learns most from 0.4M tokens?"."""
    records = to_records(runs)
    names = list(dict.fromkeys(str(record["architecture"]) for record in records))
    kinds = list(dict.fromkeys(name.partition(" ")[0] for name in names))
    groups, amount = ranking_groups(records), _amount(runs)
    if any(record["contract"].get("learning_rate_search") == TRIAL for record in records):
        return f"Which learning rate is best for {_count(names, 'architecture') if len(names) > 1 else names[0]}?"
    if len(names) > 1:
        compared = _count(names, "architecture") if len(kinds) > 1 else f"{_count(names, 'variant')} of {kinds[0]}"
        return f"Which of {compared} learns most{amount}{_conditions(groups)}?"
    if len(groups) > 1:
        return f"What does {names[0]} learn{amount}{_conditions(groups)}?"
    return f"What does {names[0]} learn{amount}?"


def _conditions(groups: list[Group]) -> str:
    """Say by what several groups differ: their sizes, or else their settings."""
    sizes = {group.size for group in groups}
    if len(groups) < 2:
        return ""
    return f" at {_count(sizes, 'size')}" if len(sizes) > 1 else f" under {_count(groups, 'setting')}"


def _count(things: Sized, noun: str) -> str:
    n = len(things)
    return f"{NUMBERS[n] if n < len(NUMBERS) else n} {noun}{'s' * (n != 1)}"


def _amount(runs: pd.DataFrame) -> str:
    """Write what each run was given alike, of all its stages; nothing where that differs or is not known yet."""
    records = finished_records(runs)
    budgets = {group.budget for group in ranking_groups(records)}
    if budgets == {"flops"}:
        return _equal(records, "train_flops", lambda value: f" from {show_flops(value)} FLOPs", 0.01)
    if budgets == {"time"}:
        seconds = {record["contract"].get("training.max_seconds") for record in records}
        value = seconds.pop() if len(seconds) == 1 else None
        each = " a stage" if len(stage_names(runs)) > 1 else ""
        return f" in {show_time(float(value))}{each}" if isinstance(value, int | float) else ""
    return _equal(records, "tokens", lambda value: f" from {_short(value)} tokens", 0.0)


def _equal(records: list[Record], key: str, write: Callable[[float], str], tolerance: float) -> str:
    values = [float(record[key]) for record in records if record[key] is not None]
    is_equal = values and max(values) <= min(values) * (1 + tolerance)
    return write(max(values)) if is_equal else ""


def _short(tokens: float) -> str:
    """Write tokens in two digits: 0.8M."""
    unit, size = next(((unit, size) for unit, size in (("B", 1e9), ("M", 1e6)) if tokens >= size / 10), ("k", 1e3))
    return f"{float(f'{tokens / size:.2g}'):g}{unit}" if tokens >= 1e3 else f"{tokens:.0f}"
