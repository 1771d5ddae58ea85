"""Draw a chart of intervals with characters, for a terminal."""

from src.reporting.plots.chart import Chart, Trace

LINE, SEED, MEAN = "─", "·", "●"
NARROWEST = 20
"""Characters of a plot at least."""


def draw_text(chart: Chart, width: int = 80) -> list[str]:
    """Draw a chart of kind `intervals`: a line for each trace, with its seeds, mean and interval. width: characters."""
    lines: list[str] = []
    for panel in chart.panels:
        if not panel.traces:
            continue
        names = max(len(trace.name) for trace in panel.traces)
        words = max(len(_words(trace)) for trace in panel.traces)
        space = max(NARROWEST, width - names - words - 4)
        ends = [value for trace in panel.traces for value in _values(trace)]
        low, high = min(ends), max(ends)
        lines += ["", f"{panel.title}, {chart.x[''].label}"]
        lines += [
            f"{trace.name:<{names}}  {_row(trace, low, high, space)}  {_words(trace)}".rstrip()
            for trace in panel.traces
        ]
        axis = f"{low:.3f}{f'{high:.3f}':>{space - len(f'{low:.3f}')}}"
        lines.append(f"{'':<{names}}  {axis}")
    return [*lines, "", f"{MEAN} mean, {LINE} its 95% interval, {SEED} seeds"] if lines else []


def _words(trace: Trace) -> str:
    return trace.text.get("", "")


def _values(trace: Trace) -> list[float]:
    return [value for part in (trace.seeds, trace.y, trace.low, trace.high) for value in part.get("", [])]


def _row(trace: Trace, low: float, high: float, space: int) -> str:
    """Return the plot of one trace, `space` characters wide."""

    def place(value: float) -> int:
        return round((value - low) / (high - low or 1) * (space - 1))

    row = [" "] * space
    for start, end in zip(trace.low.get("", []), trace.high.get("", []), strict=True):
        row[place(start) : place(end) + 1] = LINE * (place(end) + 1 - place(start))
    for mark, values in ((SEED, trace.seeds), (MEAN, trace.y)):
        for value in values.get("", []):
            row[place(value)] = mark
    return "".join(row)
