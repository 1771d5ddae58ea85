"""Everything that a report says, before it is written as Markdown or as a page."""

from dataclasses import dataclass

from src.reporting.tables.comparison import Table, Titled


@dataclass(frozen=True)
class Report:
    """The words and tables; each page writes them in its own language."""

    title: str
    axis: str
    table: Table
    note: str
    verdict: list[str]
    unfinished: list[str]
    course: list[str]
    problems: list[str]
    """What is left out, and why."""
    repeated: list[str]
    """Which runs were made twice, and whether they ended alike."""
    more: list[Titled]
    """Tables besides the comparison."""
    figure_note: str
    samples: dict[tuple[str, str], list[tuple[str, str]]]
    """(stage, prompt) -> (heading, text) of each architecture."""
