"""A table as plain values, rendered by `output/` as HTML and Markdown and by `comparison.py` for a terminal."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

WORDS = frozenset(
    "architecture size contract run status corpus after edge stage better other result task metric".split()
)
"""Columns whose cells are words, set to the left; numbers are set to the right."""


@dataclass(frozen=True)
class Column:
    group: str
    """Heading over neighboring columns, such as the stage."""
    name: str

    @property
    def is_words(self) -> bool:
        return self.name in WORDS


class Mark(NamedTuple):
    """How a cell is shown, and what it means."""

    kind: Literal["best", "gray", "open", ""]
    """best: the result of its column; gray: says nothing; open: not significant; empty: has an explanation alone."""
    title: str


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[list[str]]
    references: list[list[str]]
    """Reference losses, in the same columns."""
    marks: dict[tuple[int, int], Mark] = field(default_factory=dict[tuple[int, int], Mark])
    """(row, column) -> mark of a cell."""

    def without(self, name: str) -> "Table":
        kept = [index for index, column in enumerate(self.columns) if column.name != name]

        def cut(rows: list[list[str]]) -> list[list[str]]:
            return [[row[index] for index in kept] for row in rows]

        marks = {(row, kept.index(column)): mark for (row, column), mark in self.marks.items() if column in kept}
        return Table([self.columns[index] for index in kept], cut(self.rows), cut(self.references), marks)

    def gray_note(self) -> str:
        """Say which cells are gray, and why: a sentence for each reason."""
        columns: dict[str, dict[str, None]] = {}
        for (_, column), mark in self.marks.items():
            if mark.kind == "gray":
                columns.setdefault(mark.title, {})[self.columns[column].name] = None
        return "".join(f" Gray: {', '.join(names)} ({why})." for why, names in columns.items())


class Titled(NamedTuple):
    """A table, with its heading and its explanation."""

    title: str
    table: Table
    note: str
    is_folded: bool = False
    """Whether the page shows it on demand."""
