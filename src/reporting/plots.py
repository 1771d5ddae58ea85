"""The figures of a report: loss against tokens, FLOPs and time, and speed beside memory.

Each architecture keeps its colour (Okabe and Ito's palette, made for the colour-blind) and its marker in every figure.
Figures are built without pyplot: no global state, no display, safe in a notebook and in a thread.
"""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from src.reporting.load import ARCHITECTURES, Record, stage_names, to_records
from src.reporting.tables import reference_losses, show_bytes
from src.reporting.verdicts import ranking_groups

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#222222", "#777777"
DPI = 130
AXES = {"tokens": "tokens", "flops": "training FLOPs", "wall_time_s": "wall-clock time"}
"""What loss may be drawn against, and how the axis is called."""

MAX_LABELS = 9
"""Labels beside a panel; with more, final losses are left to the table."""


def build_figures(runs: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, Figure]:
    """Build every figure of a report, by file name."""
    return {
        "loss_vs_tokens.png": plot_loss(runs, metrics, "tokens"),
        "loss_vs_flops.png": plot_loss(runs, metrics, "flops"),
        "loss_vs_time.png": plot_loss(runs, metrics, "wall_time_s"),
        "speed.png": plot_speed(runs),
    }


def plot_loss(runs: pd.DataFrame, metrics: pd.DataFrame, axis: str = "tokens") -> Figure:
    """Draw loss against `axis` (a key of AXES): a column a stage, a row a size; training faint, validation marked."""
    records = to_records(runs)
    stages = list(dict.fromkeys([*stage_names(runs), *metrics["stage"].dropna()]))
    drawn = set(metrics["run"])
    sizes = list(dict.fromkeys(record["size"] for record in records if record["run"] in drawn))
    if not sizes:
        return _empty_figure(f"Loss against {AXES[axis]}: nothing measured yet")
    unit = ""
    if axis == "wall_time_s":
        unit, seconds = _time_unit(float(metrics[axis].max()))
        metrics = metrics.assign(wall_time_s=metrics[axis] / seconds)
    shape = (len(sizes), len(stages))
    figure = Figure(figsize=(1.2 + 4.9 * shape[1], 1.1 + 3.5 * shape[0]), dpi=DPI, layout="constrained")
    panels = figure.subplots(*shape, squeeze=False)
    for group in ranking_groups(records):
        for record in group.runs:
            record["label"] = f"{record['architecture']}{f' ({group.letter})' if group.letter else ''}"
    points = {str(run): rows for run, rows in metrics.groupby("run", sort=False)}
    for size, row in zip(sizes, panels, strict=True):
        members = [record for record in records if record["size"] == size]
        for stage, panel in zip(stages, row, strict=True):
            _draw_panel(panel, members, points, stage, axis)
            panel.set_title(stage if len(sizes) == 1 else f"{stage}, {size}", loc="left", fontsize=11)
        row[0].set_ylabel("loss (nats per token)")
    for panel in panels[-1]:
        panel.set_xlabel(f"{AXES[axis]} in the stage{unit}")
    figure.suptitle(f"Loss against {AXES[axis]}", x=0.01, ha="left", fontsize=13, fontweight="bold")
    _add_legend(figure, [record for record in records if record["run"] in drawn])
    return figure


def plot_speed(runs: pd.DataFrame) -> Figure:
    """Draw training speed and peak memory of the finished runs: bars for means, dots for runs, a row a size."""
    records = [record for record in to_records(runs) if record["tokens_per_second"] is not None]
    sizes = list(dict.fromkeys(record["size"] for record in records))
    if not records:
        return _empty_figure("Speed and memory: no run is finished yet")
    architectures = list(dict.fromkeys(record["architecture"] for record in records))
    height = 1.1 + len(sizes) * (0.7 + 0.42 * len(architectures))
    figure = Figure(figsize=(11, height), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(sizes), 2, squeeze=False)
    for size, (speed, memory) in zip(sizes, panels, strict=True):
        members = [record for record in records if record["size"] == size]
        suffix = f", {size}" if len(sizes) > 1 else ""
        _draw_bars(speed, members, "tokens_per_second", "{:,.0f}".format)
        speed.set_title(f"training speed (tokens per second){suffix}", loc="left", fontsize=11)
        _draw_bars(memory, members, "peak_memory_bytes", show_bytes)
        memory.set_title(f"peak memory{suffix}", loc="left", fontsize=11)
    places = list(dict.fromkeys(_place(record) for record in records))
    warning = " (different: not comparable)" if len(places) > 1 else ""
    where = f"Speed and memory on {' / '.join(places)}{warning}"
    figure.suptitle(where, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def to_png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _draw_panel(panel: Axes, members: list[Record], points: dict[str, Any], stage: str, axis: str) -> None:
    starts, validation = list[float](), list[float]()
    finals: dict[tuple[str, str], list[float]] = {}
    crowd = max(1, len(members) / 8)
    for record in members:
        rows = points.get(record["run"])
        if rows is None:
            continue
        rows = rows[rows["stage"] == stage]
        colour, marker = _style(record["architecture"])
        train, val = _curve(rows, axis, "train/loss"), _curve(rows, axis, "val/loss")
        panel.plot(*train, color=colour, alpha=0.3 / crowd**0.5, linewidth=1, zorder=1)
        thin = crowd**-0.3
        every = max(1, len(val[0]) // 12)
        panel.plot(
            *val, color=colour, marker=marker, markevery=every, markersize=4.5 * thin, linewidth=1.6 * thin, zorder=3
        )
        x, y = val if len(val[0]) else (train[0], train[1][-1:])
        if record["status"] not in ("done", "running") and len(x):
            panel.plot(x[-1:], y[-1:], marker="x", markersize=9, markeredgewidth=2, color=INK, zorder=4)
        elif record["status"] == "done" and len(val[0]):
            finals.setdefault((record["label"], colour), []).append(float(val[1][-1]))
        starts += list(x[:1])
        validation += list(y)
    _style_axes(panel, axis, starts)
    if validation:
        references = _reference_levels(members, stage)
        low, high = _loss_range(validation, list(references.values()))
        panel.set_ylim(low, high)
        for loss in references.values():
            panel.axhline(loss, color=FAINT, linestyle=(0, (5, 3)), linewidth=1, zorder=2)
        labels = [(name, loss, FAINT) for name, loss in references.items()]
        if len(labels) + len(finals) <= MAX_LABELS:
            labels += [(name, float(np.mean(losses)), colour) for (name, colour), losses in finals.items()]
        _label_right(panel, labels)


def _curve(rows: pd.DataFrame, axis: str, metric: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return x and y where the metric is known; what was measured before the first step has no place on a log axis."""
    if metric not in rows.columns:
        return np.array([]), np.array([])
    x, y = rows[axis].to_numpy(dtype=float), rows[metric].to_numpy(dtype=float)
    known = np.isfinite(x) & np.isfinite(y) & (x > 0)
    return x[known], y[known]


def _reference_levels(members: list[Record], stage: str) -> dict[str, float]:
    levels: dict[str, float] = {}
    for record in members:
        for name, (loss, _) in reference_losses(record, stage).items():
            levels.setdefault(name, loss)
    return levels


def _loss_range(losses: list[float], references: list[float]) -> tuple[float, float]:
    """Choose the y range from the validation losses; it takes in the references unless the curves become a ribbon."""
    low, high = min(losses), max(losses)
    reach = max(high - low, 0.1 * high, 0.1)
    near = [loss for loss in references if low - 2.5 * reach <= loss <= high + 2.5 * reach]
    return min(low, *near, low) - 0.06 * reach, max(high, *near, high) + 0.06 * reach


def _label_right(panel: Axes, labels: list[tuple[str, float, str]]) -> None:
    """Write name and loss beside the right edge at each level, moved apart where they would touch.

    A level outside the axis is named at the edge that it lies beyond, with an arrow.
    """
    low, high = panel.get_ylim()
    labels = sorted(labels, key=lambda label: -label[1])
    gap = 0.055
    places = [min(1.0, max(0.0, (loss - low) / (high - low))) for _, loss, _ in labels]
    for index in range(1, len(places)):
        places[index] = min(places[index], places[index - 1] - gap)
    floor = 0.0
    for index in reversed(range(len(places))):
        places[index] = max(places[index], floor)
        floor = places[index] + gap
    for (name, loss, colour), place in zip(labels, places, strict=True):
        arrow = "↑ " if loss > high else "↓ " if loss < low else ""
        panel.annotate(
            f"{arrow}{name} {loss:.2f}", (1, place), xytext=(5, 0), xycoords="axes fraction",
            textcoords="offset points", va="center", fontsize=8.5, color=colour, annotation_clip=False,
        )  # fmt: skip


def _style_axes(panel: Axes, axis: str, starts: list[float]) -> None:
    """starts: x of each run's first validation; a log axis begins a little before, where curves enter the range."""
    panel.set_axisbelow(True)
    panel.grid(color="#e6e6e6", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    if axis == "wall_time_s":
        panel.set_xlim(left=0)
        return
    panel.set_xscale("log")
    if starts and min(starts) > 0:
        panel.set_xlim(left=min(starts) / 1.5)
    first, last = panel.get_xlim()
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if last < 400 * first else (1.0,), numticks=8))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(EngFormatter(sep="") if axis == "tokens" else FuncFormatter(_power_of_ten))


def _time_unit(longest: float) -> tuple[str, float]:
    """Choose the unit of a time axis: its name and its seconds."""
    units = [(" (s)", 1.0, 180.0), (" (min)", 60.0, 3 * 3600.0), (" (h)", 3600.0, float("inf"))]
    return next(((name, seconds) for name, seconds, limit in units if not longest > limit))


def _power_of_ten(value: float, _: object = None) -> str:
    """Write 2e12 as 2 times 10 to the 12."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def _draw_bars(panel: Axes, members: list[Record], key: str, show: Callable[[float], str]) -> None:
    values: dict[str, list[float]] = {}
    for record in members:
        values.setdefault(str(record["architecture"]), []).extend([record[key]] if record[key] is not None else [])
    means = [float(np.mean(found)) if found else 0.0 for found in values.values()]
    colours = [_style(name)[0] for name in values]
    panel.barh(list(values), means, color=colours, height=0.68, zorder=2)
    for index, found in enumerate(values.values()):
        if len(found) > 1:
            panel.plot(found, [index] * len(found), "o", color="white", markeredgecolor=INK, markersize=4, zorder=3)
        end = max([*found, means[index]])
        text = show(means[index]) if found else "not measured"
        panel.annotate(text, (end, index), xytext=(6, 0), textcoords="offset points", va="center", color=INK)
    panel.set_xlim(0, max([*means, *(value for found in values.values() for value in found)], default=1) * 1.16 or 1)
    panel.invert_yaxis()
    panel.tick_params(left=False, bottom=False, labelbottom=False)
    panel.spines[["top", "right", "bottom"]].set_visible(False)


def _add_legend(figure: Figure, records: list[Record]) -> None:
    handles = [
        Line2D([], [], color=_style(name)[0], marker=_style(name)[1], markersize=5, label=name)
        for name in dict.fromkeys(str(record["architecture"]) for record in records)
    ]
    handles.append(Line2D([], [], color=FAINT, marker="o", markersize=5, label="validation"))
    handles.append(Line2D([], [], color=FAINT, alpha=0.5, linewidth=1, label="training"))
    if any(record["status"] not in ("done", "running") for record in records):
        handles.append(Line2D([], [], color=INK, linestyle="", marker="x", markersize=8, label="did not finish"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)


def _style(architecture: str | None) -> tuple[str, str]:
    """Return colour and marker; a name that we do not know gets one of its own, always the same."""
    name = str(architecture)
    known = len(ARCHITECTURES)
    spare = len(COLOURS) - known
    index = ARCHITECTURES.index(name) if name in ARCHITECTURES else known + sum(name.encode()) % spare
    return COLOURS[index], MARKERS[index]


def _place(record: Record) -> str:
    threads = record["threads"]
    return str(record["device"] or "unknown device") + (f", {threads} threads" if threads else "")


def _empty_figure(message: str) -> Figure:
    figure = Figure(figsize=(8, 1.6), dpi=DPI)
    figure.text(0.5, 0.5, message, ha="center", va="center", color=FAINT, fontsize=13)
    return figure
