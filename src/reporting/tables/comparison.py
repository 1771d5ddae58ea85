"""The comparison as a table, with its introduction and its notes.

A row is a run or, where an architecture has several seeds, the mean over them. Loss and bits per byte are taken after
equal tokens; the figures show the other two axes, FLOPs and time. Rows are sorted by the last
bits per byte.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from src.config.formatting import NOTHING, show_bytes, show_count, show_time
from src.reporting.data.json_values import Record, known_values, mean_value
from src.reporting.data.metric import BITS, METRICS, Metric, metric_of
from src.reporting.data.runs import ABOVE_FLOOR, FLOOR, reference_losses, split_of, stage_names, to_records
from src.reporting.statistics.groups import BUDGETS, SPLITS, Group, ranking_groups
from src.reporting.statistics.verdicts import compare_headlines, members_by_result, show_mean
from src.reporting.tables.table import Column, Mark, Table


def comparison_table(runs: pd.DataFrame) -> Table:
    """Build the table: a row a run, or a row an architecture (mean, ± half a 95% interval) with several seeds."""
    records, stages = to_records(runs), stage_names(runs)
    groups = ranking_groups(records)
    if has_replicates(groups):
        unstable = {
            (headline.group.title, headline.stage, name): values
            for headline in compare_headlines(runs)
            for name, values in headline.comparison.unstable.items()
        }
        columns, rows, shown = _mean_rows(runs, stages, unstable)
    else:
        columns, rows, shown = _run_rows(runs, stages)
    references = [
        [label, *[cells.get((column.group, column.name), "") for column in columns[1:]]]
        for label, cells in _references(records, stages)
    ]
    return Table(columns, rows, references, _marks(columns, shown))


def introduction(runs: pd.DataFrame) -> str:
    """Write what the runs of a report have in common: their budget, size, recipe, data and matching rule."""
    records = to_records(runs)
    tokens = {record["tokens"] for record in records if record["tokens"] is not None}
    amount = f" ({tokens.pop():,} a run, all stages)" if len(tokens) == 1 else ""
    common = [
        f"{key} {values.pop()}"
        for key in ("size", "recipe", "data", "match")
        if len(values := {record[key] for record in records if record[key] is not None}) == 1
    ]
    budgets = list(dict.fromkeys(group.budget for group in ranking_groups(records))) or ["tokens"]
    after = " or ".join(BUDGETS.get(budget, budget) for budget in budgets)
    line = f"{SPLITS[split_of(records, stage_names(runs))].capitalize()} loss after {after}{amount}"
    line += f": {', '.join(common)}." if common else "."
    others = [BUDGETS[budget] for budget in BUDGETS if budget not in budgets]
    return line + (f" Other comparisons (training.budget): {', '.join(others)}." if others else "")


def table_note(runs: pd.DataFrame) -> str:
    """Explain the columns in a sentence or two."""
    records, stages = to_records(runs), stage_names(runs)
    note = "loss: nats per token. params: active for a token, without embeddings."
    if references := [label for label, _ in _references(records, stages)]:
        note += " uniform: every token equally likely; unigram: entropy of the token frequencies"
        if any(label.startswith(FLOOR) for label in references):
            note += f"; {FLOOR}: exact entropy of the generated text, which no model beats on average"
        note += "."
    if any(record.get(f"{stage}/{ABOVE_FLOOR}") is not None for record in records for stage in stages):
        note += " above floor: bits per byte above the exact entropy of the windows evaluated; a model sees only the"
        note += " window, without the start of its first document, so it cannot reach 0."
    metrics = dict.fromkeys(metric_of(records, stage) for stage in stages)
    note += f" Bold: the {' or '.join(metric.best for metric in metrics) or BITS.best} of its column."
    if has_replicates(ranking_groups(records)):
        note += (
            " Means over seeds; ±: half a 95% interval of that mean alone (Student's t), from three seeds on; the table"
        )
        note += " Pairs, not this interval, tells whether two means differ."
        if any(headline.comparison.unstable for headline in compare_headlines(runs)):
            note += " unstable: seeds fall into two clusters, of which the lowest and the highest are given."
    return note


def unfinished_lines(runs: pd.DataFrame) -> list[str]:
    """Name every run that is not done, failed ones first and with their error."""
    records = to_records(runs)
    ended = [record for record in records if record["status"] not in ("done", "running", "pending")]
    lines = [f"{record['run']}: {record['status']}: {record['error'] or 'no error recorded'}" for record in ended]
    for status in ("running", "pending"):
        names = [record["run"] for record in records if record["status"] == status]
        if names:
            lines.append(
                f"{status}: {', '.join(names[:6])}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            )
    return lines


def has_replicates(groups: Sequence[Group]) -> bool:
    """Whether some architecture has several seeds, and all that have several runs differ by the seed alone."""
    several = any(len(members) > 1 for group in groups for members in group.by_architecture().values())
    return several and not any(group.has_repeated_seeds() for group in groups)


def _number(value: float | None, spec: str = ".3f") -> str:
    return NOTHING if value is None else format(value, spec)


_BY_HEADING = {metric.heading: metric for metric in METRICS}
_MEASURES = [Column("active", "params"), Column("", "tokens/s"), Column("peak", "memory"), Column("", "time")]


def _measures(record: Record) -> list[str]:
    speed = _number(record["tokens_per_second"], ",.0f")
    memory, time = show_bytes(record["peak_memory_bytes"]), show_time(record["wall_time_s"])
    return [show_count(record["active_non_embedding_params"]), speed, memory, time]


def _stage_columns(records: list[Record], stages: list[str]) -> dict[str, Column]:
    """Return the columns of each stage, by the key of their values."""
    columns, split = dict[str, Column](), split_of(records, stages)
    for stage in stages:
        columns[f"{stage}/{split}_loss"] = Column(stage, "loss")
        metric = metric_of(records, stage)
        columns[f"{stage}/{split}_{metric.key}"] = Column(stage, metric.heading)
        if any(record.get(f"{stage}/{ABOVE_FLOOR}") is not None for record in records):
            columns[f"{stage}/{ABOVE_FLOOR}"] = Column(stage, "above floor")
    return columns


class _Row(NamedTuple):
    """What decides the marks of a row."""

    group: str
    values: dict[Column, float]
    """Costs that are ranked: bits per byte, or errors."""
    speed_problem: str | None


def _marks(columns: list[Column], rows: Sequence[_Row]) -> dict[tuple[int, int], Mark]:
    """Mark the best result of each group, and speeds that say nothing."""
    marks: dict[tuple[int, int], Mark] = {}
    for index, column in enumerate(columns):
        for title in dict.fromkeys(row.group for row in rows):
            own = [(row, i) for i, row in enumerate(rows) if row.group == title and column in row.values]
            found = [(row.values[column], i) for row, i in own]
            if len(found) > 1:
                marks[min(found)[1], index] = Mark("best", f"{_metric(column).best} of its column")
        for i, row in enumerate(rows):
            if row.speed_problem and column.name in ("tokens/s", "time"):
                marks[i, index] = Mark("gray", row.speed_problem)
    return marks


def _run_rows(runs: pd.DataFrame, stages: list[str]) -> tuple[list[Column], list[list[str]], list[_Row]]:
    ranked = [(group, own) for group, members in members_by_result(runs) for own in members.values()]
    groups = {record["run"]: group for group, own in ranked for record in own}
    records = [record for _, own in ranked for record in own]
    records += [record for record in to_records(runs) if record["run"] not in groups]
    # Columns that distinguish rows, as far as these runs need them.
    optional: dict[str, list[str]] = {
        "size": [str(record["size"]) for record in records],
        "seed": [_number(record["seed"], "d") for record in records],
        "contract": [groups[record["run"]].short if record["run"] in groups else "" for record in records],
    }
    optional = {name: cells for name, cells in optional.items() if len(set(cells) - {""}) > 1}
    names = [str(record["architecture"]) for record in records]
    if len(set(zip(names, *optional.values(), strict=True))) < len(records):
        optional["run"] = [f"…{record['run'][-8:]}" for record in records]
    if any(record["status"] != "done" for record in records):
        optional["status"] = [record["status"] for record in records]
    results = _stage_columns(records, stages)
    rows: list[list[str]] = []
    shown: list[_Row] = []
    for index, record in enumerate(records):
        losses = [_number(record[key]) for key in results]
        rows.append([names[index], *(cells[index] for cells in optional.values()), *losses, *_measures(record)])
        if group := groups.get(record["run"]):
            values = {
                column: _metric(column).to_cost(record[key])
                for key, column in results.items()
                if _is_ranked(column) and record[key] is not None
            }
            shown.append(_Row(group.title, values, group.speed_problem()))
    columns = [Column("", "architecture"), *(Column("", name) for name in optional)]
    return [*columns, *results.values(), *_MEASURES], rows, shown


def _mean_rows(
    runs: pd.DataFrame, stages: list[str], unstable: dict[tuple[str, str, str], list[float]]
) -> tuple[list[Column], list[list[str]], list[_Row]]:
    """Build a row an architecture; if it is unstable, its lowest and highest seed replace the mean."""
    records, ranked = to_records(runs), members_by_result(runs)
    several_sizes = len({record["size"] for record in records}) > 1
    lettered = any(group.mark for group, _ in ranked)
    results = _stage_columns(records, stages)
    rows: list[list[str]] = []
    shown: list[_Row] = []
    for group, by_result in ranked:
        for architecture, members in by_result.items():
            row = [architecture, *([group.size] if several_sizes else []), str(len(members))]
            row += [group.short] if lettered else []
            values: dict[Column, float] = {}
            for key, column in results.items():
                if (seeds := unstable.get((group.title, column.group, architecture))) is None:
                    row.append(_mean(members, key, interval=not key.endswith("_loss")))
                    if _is_ranked(column) and (value := mean_value(members, key)) is not None:
                        values[column] = _metric(column).to_cost(value)
                elif _is_ranked(column):
                    low, high = sorted(_metric(column).to_cost(seed) for seed in (seeds[0], seeds[-1]))
                    row.append(f"{low:.3f}–{high:.3f}")
                else:
                    row.append("unstable")
            keys = ("active_non_embedding_params", "tokens_per_second", "peak_memory_bytes", "wall_time_s")
            rows.append([*row, *_measures({key: mean_value(members, key) for key in keys})])
            shown.append(_Row(group.title, values, group.speed_problem()))
    head = ["architecture", *(["size"] if several_sizes else []), "seeds", *(["contract"] if lettered else [])]
    return [*(Column("", name) for name in head), *results.values(), *_MEASURES], rows, shown


def _is_ranked(column: Column) -> bool:
    return column.name in _BY_HEADING


def _metric(column: Column) -> Metric:
    return _BY_HEADING[column.name]


def _mean(members: list[Record], key: str, interval: bool) -> str:
    if not interval:
        return _number(mean_value(members, key))
    return show_mean(known_values(members, key))


def _references(records: list[Record], stages: list[str]) -> list[tuple[str, dict[tuple[str, str], str]]]:
    """Return label and cells of each reference; each set of data has its own."""
    found: list[tuple[str, dict[tuple[str, str], str]]] = []
    texts = list(dict.fromkeys(str(record["data"]) for record in records))
    for data in texts:
        suffix = f", {data}" if len(texts) > 1 else ""
        for name in ("uniform", "unigram", FLOOR):
            cells: dict[tuple[str, str], str] = {}
            for stage in stages:
                losses = [reference_losses(record, stage) for record in records if str(record["data"]) == data]
                loss, bits = next((known[name] for known in losses if name in known), (None, None))
                cells[stage, "loss"], cells[stage, "bits/byte"] = _number(loss), _number(bits)
            if set(cells.values()) - {NOTHING}:
                found.append((name + suffix, cells))
    return found
