"""The pairs of architectures: a matrix for each headline, and the list of all pairs with their intervals."""

from collections.abc import Sequence

import pandas as pd

from src.reporting.data.metric import BITS
from src.reporting.statistics.verdicts import Headline, compare_headlines
from src.reporting.tables.table import Column, Mark, Table, Titled

SIGNS = {"significant": "*", "significant as best": "*", "equivalent": " ="}
"""What follows a difference, by the result of its pair."""


def pair_tables(runs: pd.DataFrame, margin: float | None = None) -> list[Titled]:
    """Build the matrix of each headline and, below, the list of its pairs; nothing without a verdict."""
    found = compare_headlines(runs)
    several = len({headline.group.title for headline in found}) > 1
    matrices = [_matrix(headline, margin, several, found if headline is found[-1] else []) for headline in found]
    return [*matrices, _list(found, margin, several)] if found else []


def _matrix(headline: Headline, margin: float | None, several: bool, found: Sequence[Headline]) -> Titled:
    """Build a matrix; found: all headlines, where it is the last, which explains them."""
    names = list(headline.comparison.stable)
    pairs = {(pair.better, pair.other): pair for pair in headline.comparison.pairs}
    rows: list[list[str]] = []
    marks: dict[tuple[int, int], Mark] = {}
    for i, row in enumerate(names):
        cells = [row]
        for j, column in enumerate(names):
            pair = pairs.get((row, column)) or pairs.get((column, row))
            if pair is None:
                cells.append("")
                continue
            result = headline.result(pair, margin)
            difference = pair.difference if pair.other == row else -pair.difference
            cells.append(f"{difference:+.3f}{SIGNS.get(result, '')}")
            title = f"{pair.other} against {pair.better}: {pair.difference:.3f}±{pair.half_width:.3f}, {result}"
            marks[i, j + 1] = Mark("" if result in SIGNS else "open", title)
        rows.append(cells)
    title = f"Differences: {f'{headline.group.title}, ' if several else ''}{headline.stage}"
    note = ""
    if found:
        units = [*dict.fromkeys(each.metric.cost_unit for each in found)]
        note = (
            f"{' or '.join(units).capitalize()} of the row less {'those' if units == [BITS.unit] else 'that'} of the "
        )
        note += "column; negative: the row is better. *: significant. "
        note += "Gray, without a sign: not significant. The best mean is first; unstable architectures are left out."
        if margin is not None:
            note += f" =: equivalent within ±{margin:g} {headline.metric.unit}."
    return Titled(
        title, Table([Column("", "architecture"), *(Column("", name) for name in names)], rows, [], marks), note
    )


def _list(found: Sequence[Headline], margin: float | None, several: bool) -> Titled:
    """Give the difference of each pair of stable architectures in every headline."""
    rows = [
        [
            *([headline.group.title] if several else []),
            headline.stage,
            pair.better,
            pair.other,
            f"{pair.difference:.3f}±{pair.half_width:.3f}",
            headline.result(pair, margin),
        ]
        for headline in found
        for pair in headline.comparison.pairs
    ]
    headings = dict.fromkeys(headline.metric.heading for headline in found)
    names = [*(["size"] if several else []), "stage", "better", "other", "/".join(headings), "result"]
    note = (
        "How much worse the other is, with its simultaneous 95% interval over all pairs and headlines of this report. "
        "better: by the mean. significant: the interval excludes 0. significant as best: the verdict that the first is "
        "best tests its own pairs alone and so needs less. Unstable architectures are left out."
    )
    if margin is not None:
        note += f" equivalent: the interval lies within ±{margin:g} {found[0].metric.unit}."
    return Titled("Pairs", Table([Column("", name) for name in names], rows, []), note, is_folded=True)
