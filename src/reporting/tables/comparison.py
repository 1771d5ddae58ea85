"""The comparison as a table, with its introduction and its notes, and its form for a terminal.

A row is a run or, where an architecture has several seeds, the mean over them. Loss and bits per byte are taken after
equal tokens; the figures show the other two axes, FLOPs and time. Rows are not sorted by result.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

import pandas as pd

from src.config.formatting import NOTHING, show_bytes, show_count, show_time, terminal_width
from src.reporting.data.json_values import Record, known_values, mean_value
from src.reporting.data.runs import ABOVE_FLOOR, FLOOR, reference_losses, split_of, stage_names, to_records
from src.reporting.statistics.answers import answer_lines
from src.reporting.statistics.verdicts import (
    BUDGETS,
    SPLITS,
    Group,
    compare_headlines,
    ranking_groups,
    show_mean,
    verdict_lines,
)

WIDTH = 110
"""Columns of the text where the output is no terminal, and at most of its paragraphs."""
_DROPPABLE = ("loss", "time", "memory", "tokens/s", "above floor", "params")
"""Columns that are dropped if the table is too wide for a terminal, in this order."""


WORDS = frozenset("architecture size contract run status corpus after edge stage better other result".split())
"""Columns whose cells are words, set to the left; numbers are set to the right."""


@dataclass(frozen=True)
class Column:
    group: str
    """Heading over neighboring columns, such as the stage."""
    name: str

    @property
    def is_words(self) -> bool:
        return self.name in WORDS


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[list[str]]
    references: list[list[str]]
    """Reference losses, in the same columns."""

    def without(self, name: str) -> "Table":
        kept = [index for index, column in enumerate(self.columns) if column.name != name]

        def cut(rows: list[list[str]]) -> list[list[str]]:
            return [[row[index] for index in kept] for row in rows]

        return Table([self.columns[index] for index in kept], cut(self.rows), cut(self.references))


class Titled(NamedTuple):
    """A table, with its heading and its explanation."""

    title: str
    table: Table
    note: str


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
        columns, rows = _mean_rows(records, groups, stages, unstable)
    else:
        columns, rows = _run_rows(records, groups, stages)
    references = [
        [label, *[cells.get((column.group, column.name), "") for column in columns[1:]]]
        for label, cells in _references(records, stages)
    ]
    return Table(columns, rows, references)


def comparison_text(runs: pd.DataFrame, margin: float | None = None) -> str:
    """Write the whole comparison for a terminal: table, failed runs, verdict and answer (see `answer_lines`)."""
    table, room = comparison_table(runs), terminal_width() or WIDTH
    dropped: list[str] = []
    for name in _DROPPABLE:
        if _width(table) > room:
            table = table.without(name)
            dropped.append(name)
    notes = [table_note(runs), *([f"Left out for width: {', '.join(dropped)}."] if dropped else [])]
    fill = partial(_fill, width=min(room, WIDTH))
    parts = [fill(introduction(runs)), *_draw(table), "", *map(fill, notes)]
    for title, lines in (
        ("Not finished", unfinished_lines(runs)),
        ("Verdict", verdict_lines(runs, margin)),
        ("Answer", answer_lines(runs, margin)),
    ):
        if lines:
            parts += ["", title, *(fill(line, indent="  ") for line in lines)]
    return "\n".join(parts)


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
        columns[f"{stage}/{split}_bits_per_byte"] = Column(stage, "bits/byte")
        if any(record.get(f"{stage}/{ABOVE_FLOOR}") is not None for record in records):
            columns[f"{stage}/{ABOVE_FLOOR}"] = Column(stage, "above floor")
    return columns


def _run_rows(records: list[Record], groups: list[Group], stages: list[str]) -> tuple[list[Column], list[list[str]]]:
    letters = {run["run"]: group.short for group in groups for run in group.runs}
    # Columns that distinguish rows, as far as these runs need them.
    optional: dict[str, list[str]] = {
        "size": [str(record["size"]) for record in records],
        "seed": [_number(record["seed"], "d") for record in records],
        "contract": [letters.get(record["run"], "") for record in records],
    }
    optional = {name: cells for name, cells in optional.items() if len(set(cells) - {""}) > 1}
    names = [str(record["architecture"]) for record in records]
    if len(set(zip(names, *optional.values(), strict=True))) < len(records):
        optional["run"] = [f"…{record['run'][-8:]}" for record in records]
    if any(record["status"] != "done" for record in records):
        optional["status"] = [record["status"] for record in records]
    results = _stage_columns(records, stages)
    rows: list[list[str]] = []
    for index, record in enumerate(records):
        losses = [_number(record[key]) for key in results]
        rows.append([names[index], *(cells[index] for cells in optional.values()), *losses, *_measures(record)])
    columns = [Column("", "architecture"), *(Column("", name) for name in optional)]
    return [*columns, *results.values(), *_MEASURES], rows


def _mean_rows(
    records: list[Record], groups: list[Group], stages: list[str], unstable: dict[tuple[str, str, str], list[float]]
) -> tuple[list[Column], list[list[str]]]:
    """Build a row an architecture; if it is unstable, its lowest and highest seed replace the mean."""
    several_sizes = len({record["size"] for record in records}) > 1
    lettered = any(group.mark for group in groups)
    results = _stage_columns(records, stages)
    rows: list[list[str]] = []
    for group in groups:
        for architecture, members in group.by_architecture().items():
            row = [architecture, *([group.size] if several_sizes else []), str(len(members))]
            row += [group.short] if lettered else []
            for key, column in results.items():
                if (seeds := unstable.get((group.title, column.group, architecture))) is None:
                    row.append(_mean(members, key, interval=not key.endswith("_loss")))
                else:
                    row.append(f"{seeds[0]:.3f}–{seeds[-1]:.3f}" if column.name == "bits/byte" else "unstable")
            keys = ("active_non_embedding_params", "tokens_per_second", "peak_memory_bytes", "wall_time_s")
            rows.append([*row, *_measures({key: mean_value(members, key) for key in keys})])
    head = ["architecture", *(["size"] if several_sizes else []), "seeds", *(["contract"] if lettered else [])]
    return [*(Column("", name) for name in head), *results.values(), *_MEASURES], rows


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


def _widths(table: Table) -> list[int]:
    cells = zip(*([column.name for column in table.columns], *table.rows, *table.references), strict=True)
    widths = [max(map(len, column)) for column in cells]
    for group, members in groupby(range(len(widths)), key=lambda index: table.columns[index].group):
        first, *others = members
        span = sum(widths[first : first + 1 + len(others)]) + 2 * len(others)
        widths[first] += max(0, len(group) + 2 * bool(others) - span)  # the heading needs room over its columns
    return widths


def _width(table: Table) -> int:
    return sum(_widths(table)) + 2 * (len(table.columns) - 1)


def _draw(table: Table) -> list[str]:
    """Draw the table: names to the left, numbers to the right, headings of groups over their columns."""
    widths = _widths(table)

    def line(cells: Sequence[str]) -> str:
        sides = [str.ljust if column.is_words else str.rjust for column in table.columns]
        return "  ".join(side(cell, width) for side, cell, width in zip(sides, cells, widths, strict=True)).rstrip()

    heads, index = list[str](), 0
    while index < len(widths):
        group = table.columns[index].group
        end = index + 1
        while group and end < len(widths) and table.columns[end].group == group:
            end += 1
        span = sum(widths[index:end]) + 2 * (end - index - 1)
        heads.append(f" {group} ".center(span, "-") if end - index > 1 else group.rjust(span)[:span])
        index = end
    rule = "-" * _width(table)
    body = [line([column.name for column in table.columns]), rule, *map(line, table.rows)]
    return ["  ".join(heads).rstrip(), *body, *([rule] if table.references else []), *map(line, table.references)]


def _fill(text: str, indent: str = "", width: int = WIDTH) -> str:
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent + "  " * bool(indent),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
