"""Everything that a report says, before it is written as Markdown or as a page."""

from dataclasses import dataclass

from src.reporting.tables.table import Table, Titled


@dataclass(frozen=True)
class Report:
    """The words and tables, to be rendered as Markdown and as HTML."""

    title: str
    """What a person called the sweep, else the question."""
    question: str
    introduction: str
    table: Table
    note: str
    answers: list[str]
    """One sentence for each headline; empty without a verdict."""
    verdict: list[str]
    unfinished: list[str]
    anomalies: list[str]
    problems: list[str]
    """What is left out, with the reason."""
    repeated: list[str]
    """Which runs were repeated, and whether they gave the same weights."""
    more: list[Titled]
    """Tables besides the comparison."""
    samples: dict[tuple[str, str], list[tuple[str, str]]]
    """(stage, prompt) -> (heading, text) of each architecture."""
