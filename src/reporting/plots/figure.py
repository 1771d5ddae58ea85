"""Draw a chart with matplotlib.

Figures are made without pyplot: no global state, no display, safe in a notebook and in a thread.
"""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from src.reporting.plots.chart import Axis, Chart, Panel, Trace
from src.reporting.plots.style import GRAY, INK

DPI = 130
USUAL_NAME = 16
"""Letters of a name that leave room enough for a row."""
MAX_END_LABELS = 9
"""Labels beside a panel; with more, final losses are left to the table."""
SEED_OFFSET = 0.24
"""How far below its mean an architecture has its seeds, in rows, so that neither hides the other."""
LINES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 3)), "dot": ":", "": ""}
"""Style of a dash by its name; others are lengths."""
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def draw(chart: Chart, x: str | None = None) -> Figure:
    """Draw a chart; if it has several y axes, each panel is a row with a column for each of them.

    x: which of its x axes; the first unless given.
    """
    if chart.is_empty:
        return _empty_figure(f"{chart.title}: nothing measured yet")
    x = next(iter(chart.x)) if x is None else x
    ys = list(chart.file_y or chart.y)
    columns = len(ys) if len(ys) > 1 else min(chart.columns, len(chart.panels))
    cells = [(panel, y) for panel in chart.panels for y in ys]
    rows = -(-len(cells) // columns)
    lines = chart.kind in ("lines", "points")
    heights = [
        1 if lines else 2 + max(_rows_height(p) for p, _ in cells[i * columns : (i + 1) * columns]) for i in range(rows)
    ]
    width = 5.4 if chart.kind == "intervals" else 3.4 if len(ys) > 2 else 4.9
    if not lines:
        longest = max(len(line) for p, _ in cells for trace in p.traces for line in in_lines(trace.name).split("\n"))
        width += 0.08 * max(0, longest - USUAL_NAME)
    size = (1.2 + width * columns, 1.1 + (3.3 * rows if lines else 0.33 * sum(heights)))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flatten()
    for index, axis in enumerate(axes):
        panel, y = cells[index] if index < len(cells) else (Panel(""), ys[0])
        if not panel.traces:
            axis.set_axis_off()
            continue
        is_first, is_last = index % columns == 0, index + columns >= len(cells)
        title, label = panel.title, chart.y[y].label
        if len(ys) > 1:
            title, label = label, title
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_ylabel(label if is_first else "")
        axis.set_xlabel(chart.x[x].label if is_last else "")
        _style(axis)
        if chart.kind == "points":
            _draw_points(axis, chart, panel, x, y)
        elif lines:
            _draw_lines(axis, chart, panel, x, y)
        else:
            _draw_rows(axis, chart, panel, y)
    figure.suptitle(chart.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    add_legend(figure, _legend(chart, ys))
    return figure


def to_png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Name all handles below the figure, in as many lines as its width takes."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    n_columns = max(1, min(len(handles), int(figure.get_figwidth() / (0.55 + 0.085 * longest))))
    figure.legend(handles=list(handles), loc="outside lower left", ncols=n_columns, frameon=False)


def _draw_lines(axis: Axes, chart: Chart, panel: Panel, x: str, y: str) -> None:
    drawn = [trace for trace in panel.traces if trace.y.get(y) and x in trace.x[y]]
    for trace in drawn:
        places, values = trace.x[y][x], trace.y[y]
        if y in trace.low:
            axis.fill_between(places, trace.low[y], trace.high[y], color=trace.color, alpha=0.2, linewidth=0, zorder=1)
        if (behind := chart.behind.get(y)) in trace.y:
            axis.plot(trace.x[behind][x], trace.y[behind], color=trace.color, alpha=0.3, linewidth=1, zorder=1)
        axis.plot(places, values, color=trace.color, zorder=3, linewidth=1.6, **_marks(trace, len(values)))
    for places in chart.marks.values():
        for place in places:
            axis.axvline(place, color=GRAY, linestyle=LINES["dash"], linewidth=1.2, zorder=2)
    _set_axes(axis, chart.x[x], chart.y[y], drawn, x, y)
    levels = [trace for trace in panel.traces if trace.level is not None and (trace.only is None or y in trace.only)]
    for trace in levels:
        axis.axhline(trace.level or 0.0, color=trace.color, linestyle=_line(trace.dash), linewidth=1.2, zorder=2)
    if chart.has_end_labels:
        finished = [trace for trace in drawn if trace.name == trace.architecture]
        ends = [(trace.name, trace.y[y][-1], INK) for trace in finished]
        labels = [(trace.name, trace.level or 0.0, GRAY) for trace in levels]
        values = [value for trace in drawn for value in trace.y[y]]
        if values:
            axis.set_ylim(*loss_range(values, [level for _, level, _ in labels]))
        _label_right(axis, [*labels, *ends] if len(labels) + len(ends) <= MAX_END_LABELS else labels)


def _draw_points(axis: Axes, chart: Chart, panel: Panel, x: str, y: str) -> None:
    """Draw the Pareto front, each mean with its interval and its name, and the seeds of unstable architectures."""
    for trace in (trace for trace in panel.traces if x in trace.x[y]):
        places = trace.x[y][x]
        if not trace.architecture:
            axis.step(places, trace.y[y], color=GRAY, linestyle=_line(trace.dash), where="post", linewidth=1.4)
            continue
        style: dict[str, Any] = {"color": trace.color, "marker": trace.marker, "markersize": 7, "linestyle": ""}
        seeds = trace.y.get(y) or trace.seeds[y]
        if y in trace.y:
            half = [trace.high[y][0] - seeds[0]] if y in trace.high else None
            axis.errorbar(places, seeds, yerr=half, capsize=3, zorder=3, **style)
        else:
            axis.plot(places * len(seeds), seeds, markerfacecolor="none", **style)
        vertical, side = trace.corners[x].split()
        axis.annotate(
            in_lines(trace.name), (places[0], seeds[0]),
            xytext=(7 if side == "right" else -7, 4 if vertical == "top" else -4),
            textcoords="offset points", color=INK, fontsize=9, ha="left" if side == "right" else "right",
            va="bottom" if vertical == "top" else "top",
        )  # fmt: skip
    axis.margins(x=0.16)
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_locator(_round_steps())
        scale.set_major_formatter(FuncFormatter(_short))


def _round_steps() -> MaxNLocator:
    return MaxNLocator(6, steps=[1, 2, 5, 10])


def _line(dash: str) -> Any:
    """Return matplotlib's style of a dash."""
    return LINES[dash] if dash in LINES else (0, tuple(0.7 * float(length) for length in dash.split(",")))


def _set_axes(axis: Axes, x_axis: Axis, y_axis: Axis, traces: Sequence[Trace], x: str, y: str) -> None:
    places = [place for trace in traces for place in trace.x[y][x]]
    if x_axis.is_log and places:  # without any point, a logarithmic axis fails
        axis.set_xscale("log")
        if min(places) > 0 and len(places) > 20:
            axis.set_xlim(left=min(places) / 1.2)
    if y_axis.is_log and places:
        axis.set_yscale("log")
    for scale, own, is_log in (
        (axis.xaxis, axis.get_xlim(), x_axis.is_log),
        (axis.yaxis, axis.get_ylim(), y_axis.is_log),
    ):
        if is_log and places:
            subs = (1.0, 2.0, 5.0) if own[1] < 400 * own[0] else (1.0,)
            scale.set_major_locator(LogLocator(subs=subs, numticks=8))
            scale.set_minor_formatter(NullFormatter())
        scale.set_major_formatter(FuncFormatter(_short))
    for limits, set_limits, reached in (
        (x_axis.limits, axis.set_xlim, axis.get_xlim()),
        (y_axis.limits, axis.set_ylim, axis.get_ylim()),
    ):
        if limits:
            set_limits(limits[0], max(1.0, reached[1]) if limits[1] is None else limits[1])


def _draw_rows(axis: Axes, chart: Chart, panel: Panel, y: str) -> None:
    """Draw bars or intervals, one below the other, with their words at the right."""
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(_round_steps())
    axis.xaxis.set_major_formatter(FuncFormatter(_short))
    for row, trace in enumerate(panel.traces):
        seeds, place = trace.seeds[y], row + 0.0
        if chart.kind == "bars":
            axis.barh(row, trace.y[y], color=trace.color, height=0.68, zorder=2)
        elif y in trace.y:
            (mean,), (low,) = trace.y[y], trace.low[y]
            axis.errorbar(
                mean, row, xerr=mean - low, color=trace.color, marker=trace.marker, markersize=6, capsize=3, zorder=2
            )
            place += SEED_OFFSET
        if chart.kind == "intervals" or len(seeds) > 1:
            edge = INK if chart.kind == "bars" else trace.color
            axis.plot(seeds, [place] * len(seeds), "o", color="white", markeredgecolor=edge, markersize=4, zorder=3)
        axis.annotate(
            trace.text[y], (1, row), xytext=(5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", color=INK, annotation_clip=False,
        )  # fmt: skip
    axis.set_yticks(range(len(panel.traces)), [in_lines(trace.name) for trace in panel.traces])
    axis.set_ylim(len(panel.traces) - 0.5, -0.5)


def _rows_height(panel: Panel) -> float:
    """Return the height of the rows of a panel, in rows whose names have one line."""
    return len(panel.traces) * (1 + max((in_lines(trace.name).count("\n") for trace in panel.traces), default=0) / 2)


def in_lines(name: str) -> str:
    """Break a long name after a comma or a space, as page.js does: a pattern of blocks leaves no room for a chart."""
    return "\n".join(re.findall(r".{1,38}(?:[ ,]|$)|.{1,38}", name))


def _marks(trace: Trace, n: int) -> dict[str, Any]:
    style: dict[str, Any] = {"linestyle": _line(trace.dash), "marker": trace.marker, "markersize": 4.5}
    if trace.marker == "ring":
        return style | {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK}
    return style | {"markevery": max(1, n // 12)}


def _legend(chart: Chart, ys: Sequence[str]) -> list[Artist]:
    handles: dict[str, Artist] = {}
    for trace in (trace for panel in chart.panels for trace in panel.traces):
        is_named_beside = chart.has_end_labels and trace.level is not None
        if trace.name not in handles and not is_named_beside and chart.kind == "lines":
            if trace.level is None and not any(trace.y.get(y) for y in ys):
                continue
            color = GRAY if trace.level is not None else trace.color
            marks = _marks(trace, 1) if trace.level is None else {"linestyle": _line(trace.dash)}
            handles[trace.name] = Line2D([], [], color=color, label=trace.name, **marks)
    for name in chart.marks:
        handles[name] = Line2D([], [], color=GRAY, linestyle=LINES["dash"], linewidth=1.2, label=name)
    if chart.kind == "points" and any(not trace.architecture for panel in chart.panels for trace in panel.traces):
        handles["front"] = Line2D([], [], color=GRAY, linestyle=LINES["dot"], label="Pareto front of the means")
    if chart.kind in ("intervals", "points"):
        handles["mean"] = Line2D([], [], color=GRAY, marker="o", label="mean with its own 95% interval")
    if chart.kind == "intervals":
        handles["seed"] = Line2D([], [], color=GRAY, marker="o", markersize=4, mfc="white", linestyle="", label="seed")
    return list(handles.values())


def loss_range(losses: Sequence[float], references: Sequence[float]) -> tuple[float, float]:
    """Return the y range of validation losses; it includes the references that do not flatten the curves."""
    low, high = min(losses), max(losses)
    reach = max(high - low, 0.1 * high, 0.1)
    near = [loss for loss in references if low - 2.5 * reach <= loss <= high + 2.5 * reach]
    return min(low, *near, low) - 0.06 * reach, max(high, *near, high) + 0.06 * reach


def _label_right(axis: Axes, labels: list[tuple[str, float, str]]) -> None:
    """Write name and loss beside the right edge at each level, moved apart where they would touch.

    A level outside the axis is named at the nearest edge, with an arrow.
    """
    low, high = axis.get_ylim()
    labels = sorted(labels, key=lambda label: -label[1])
    gap = 0.055
    places = [min(1.0, max(0.0, (loss - low) / (high - low))) for _, loss, _ in labels]
    for index in range(1, len(places)):
        places[index] = min(places[index], places[index - 1] - gap)
    lowest = 0.0
    for index in reversed(range(len(places))):
        places[index] = max(places[index], lowest)
        lowest = places[index] + gap
    for (name, loss, color), place in zip(labels, places, strict=True):
        arrow = "↑ " if loss > high else "↓ " if loss < low else ""
        axis.annotate(
            f"{arrow}{name} {loss:.2f}", (1, place), xytext=(5, 0), xycoords="axes fraction",
            textcoords="offset points", va="center", fontsize=8.5, color=color, annotation_clip=False,
        )  # fmt: skip


def _style(axis: Axes) -> None:
    """Draw a faint grid behind the curves, and no frame."""
    axis.set_axisbelow(True)
    axis.grid(color="#e6e6e6", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)


def _short(value: float, _: object = None) -> str:
    """Write 20000 as 20k, as the page does."""
    size, unit = next(((size, unit) for size, unit in UNITS if abs(value) >= size), (1.0, ""))
    return f"{value / size:.3g}{unit}"


def _empty_figure(message: str) -> Figure:
    figure = Figure(figsize=(8, 1.6), dpi=DPI)
    figure.text(0.5, 0.5, message, ha="center", va="center", color=GRAY, fontsize=13)
    return figure
