"""The text of a chart: what a reader who does not see it has to know, from the same values."""

import math
from collections.abc import Iterable

from src.config.formatting import show_flops
from src.reporting.plots.chart import Chart, Panel, Trace


def summarize_chart(chart: Chart, x: str | None = None) -> str:
    """Write the values of every panel, the lowest first; x: as for `summarize_panel`."""
    return " ".join(filter(None, (summarize_panel(chart, panel, x) for panel in chart.panels)))


def summarize_panel(chart: Chart, panel: Panel, x: str | None = None) -> str:
    """Write the values of a panel in a sentence; empty without any. A line has its result, an interval its words.

    x: which of the x axes that can be chosen; the first unless given. Of the y axes, it is the first.
    """
    y = next(iter(chart.file_y or chart.y))
    x = next(iter(chart.x), "") if x is None else x
    found = [
        (value, trace)
        for trace in panel.traces
        if trace.architecture and (value := _value(chart, trace, y)) is not None
    ]
    if not found:
        return ""
    if chart.kind != "intervals":
        found.sort(key=lambda item: item[0])
    result = "lowest value" if chart.is_read_at_minimum else "end"
    where = {"lines": f", at the {result} of each line", "points": f" ({chart.x[x].label} in brackets)" if x else ""}
    start = f"{panel.title}: " if panel.title else ""
    words = "; ".join(_words(chart, trace, value, y, x) for value, trace in _distinct(found))
    axis = chart.y[y].label or chart.x[x].label
    return f"{start}{axis}{where.get(chart.kind, '')}, the lowest first: {words}."


def _distinct(found: Iterable[tuple[float, Trace]]) -> list[tuple[float, Trace]]:
    """Return the first trace of each name: a name has several lines where one of them is a reference."""
    return list({trace.name: (value, trace) for value, trace in reversed(list(found))}.values())[::-1]


def _value(chart: Chart, trace: Trace, y: str) -> float | None:
    """Return the result of a trace, or its lowest seed."""
    known = [value for value in trace.y.get(y, []) if math.isfinite(value)]
    if known:
        return min(known) if chart.is_read_at_minimum else known[-1]
    return min(trace.seeds.get(y, []), default=None)


def _words(chart: Chart, trace: Trace, value: float, y: str, x: str) -> str:
    if chart.kind in ("bars", "intervals"):
        return f"{trace.name} {trace.text[y]}"
    if chart.kind == "lines":
        return f"{trace.name} {_number(value)}"
    seeds = "seeds from " if y not in trace.y else ""
    at = trace.x[y].get(x)
    return f"{trace.name} {seeds}{_number(value)}{f' ({show_flops(at[0])})' if at else ''}"


def _number(value: float) -> str:
    return show_flops(value) if abs(value) >= 1e4 else f"{value:.4g}"
