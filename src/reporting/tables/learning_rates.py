"""The table of what `python -m src.tune` found."""

from pathlib import Path

from src.reporting.data.artifacts import load_searches, next_rate_fails
from src.reporting.statistics.answers import join_words
from src.reporting.tables.table import Column, Table, Titled


def learning_rate_lines(directory: Path) -> list[str]:
    """Write the best rate of each architecture, a sentence for each search."""
    lines: list[str] = []
    for search in load_searches(directory):
        points = {name: search.points(name) for name in search.tried}
        best = [f"{min(own, key=lambda one: one[1])[0]:g} for {name}" for name, own in points.items() if own]
        lines += [f"{search.size}: the best learning rates are {join_words(best)}."] if best else []
    return lines


def learning_rate_tables(directory: Path) -> list[Titled]:
    """Build the table of what was found, if anything was searched for these runs."""
    searches = load_searches(directory)
    rows: list[list[str]] = []
    for search in searches:
        for name, (tried, edge) in search.tried.items():
            if points := search.points(name):
                rate, loss = min(points, key=lambda point: point[1])
                fails = "yes" if next_rate_fails(tried) else "no"
                rows.append([name, search.size, f"{rate:g}", f"{loss:.3f}", str(len(tried)), edge or "no", fails])
    names = ("architecture", "size", "best rate", "bits/byte", "rates", "edge", "next fails")
    columns = [Column("", name) for name in names]
    note = (
        "Bits per byte of validation text, a mean over stages and over seeds that no comparison uses. edge: the best "
        "rate is the lowest or the highest that was tried, so a better one may lie beyond. next fails: learning fails "
        "at the next higher rate, so other seeds may diverge at the best one; the one below is safer. "
    )
    note += " ".join(f"{search.size}: {search.text}." for search in searches)
    return [Titled("Learning rates", Table(columns, rows, []), note)] if rows else []
