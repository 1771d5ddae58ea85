"""The comparison as text for a terminal: table, unfinished runs, verdict and answer."""

import textwrap
from collections.abc import Sequence
from functools import partial
from itertools import groupby

import pandas as pd

from src.config.formatting import terminal_width
from src.reporting.statistics.answers import answer_lines
from src.reporting.statistics.verdicts import verdict_lines
from src.reporting.tables.comparison import comparison_table, introduction, table_note, unfinished_lines
from src.reporting.tables.table import Table

WIDTH = 110
"""Columns of the text where the output is no terminal, and at most of its paragraphs."""
_DROPPABLE = ("loss", "time", "memory", "tokens/s", "above floor", "params")
"""Columns that are dropped if the table is too wide for a terminal, in this order."""


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
