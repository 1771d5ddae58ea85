"""The figures of a report: loss against tokens, FLOPs and time, speed beside memory, and how evenly experts are used.

Each architecture keeps its colour (Okabe and Ito's palette, made for the colour-blind) and its marker in every figure.
Figures are built without pyplot: no global state, no display, safe in a notebook and in a thread.
"""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

import io
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from src.config.formatting import show_bytes
from src.reporting.data.artifacts import PROBES
from src.reporting.data.json_values import Record
from src.reporting.data.runs import reference_losses, stage_names, to_records
from src.reporting.plots.context import has_context, plot_beyond, plot_positions, plot_probe, plot_recall
from src.reporting.plots.style import (
    DPI,
    FAINT,
    INK,
    add_legend,
    empty_figure,
    label_right,
    style_axes,
    style_of,
    time_unit,
)
from src.reporting.statistics.verdicts import ranking_groups

AXES = {"tokens": "tokens", "flops": "training FLOPs", "wall_time_s": "wall-clock time"}
"""What loss may be drawn against, and how the axis is called."""

BALANCE = {
    "load_entropy": "load entropy (1: even)",
    "max_violation": "max violation (0: even)",
    "dead_experts": "dead experts (in a layer)",
    "router_z": "router z",
}
"""The measures of each layer of experts, and how their panels are called."""

MAX_LABELS = 9
"""Labels beside a panel; with more, final losses are left to the table."""


def build_figures(runs: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, Figure]:
    """Build every figure of a report, by file name."""
    return {name: build() for name, build in figure_builders(runs, metrics).items()}


def figure_builders(runs: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    """List what builds each figure, by file name; those of experts and of context only where a run measured some."""
    builders: dict[str, Callable[[], Figure]] = {
        "loss_vs_tokens.png": lambda: plot_loss(runs, metrics, "tokens"),
        "loss_vs_flops.png": lambda: plot_loss(runs, metrics, "flops"),
        "loss_vs_time.png": lambda: plot_loss(runs, metrics, "wall_time_s"),
        "speed.png": lambda: plot_speed(runs),
    }
    if layer_columns(metrics, "load_entropy"):
        builders["expert_balance.png"] = lambda: plot_expert_balance(runs, metrics)
    if has_context(runs, "positions"):
        builders["loss_by_position.png"] = lambda: plot_positions(runs)
    if has_context(runs, "recall"):
        builders["recall_by_distance.png"] = lambda: plot_recall(runs)
    if has_context(runs, "beyond"):
        builders["loss_beyond.png"] = lambda: plot_beyond(runs)
    for probe in PROBES:
        if has_context(runs, f"probe/{probe}"):
            builders[f"probe_{probe}.png"] = partial(plot_probe, runs, probe)
    return builders


def plot_loss(runs: pd.DataFrame, metrics: pd.DataFrame, axis: str = "tokens") -> Figure:
    """Draw loss against `axis` (a key of AXES): a column a stage, a row a size; training faint, validation marked."""
    records = to_records(runs)
    stages = list(dict.fromkeys([*stage_names(runs), *metrics["stage"].dropna()]))
    drawn = set(metrics["run"])
    sizes = list(dict.fromkeys(record["size"] for record in records if record["run"] in drawn))
    if not sizes:
        return empty_figure(f"Loss against {AXES[axis]}: nothing measured yet")
    unit = ""
    if axis == "wall_time_s":
        unit, seconds = time_unit(float(metrics[axis].max()))
        metrics = metrics.assign(wall_time_s=metrics[axis] / seconds)
    shape = (len(sizes), len(stages))
    figure = Figure(figsize=(1.2 + 4.9 * shape[1], 1.1 + 3.5 * shape[0]), dpi=DPI, layout="constrained")
    panels = figure.subplots(*shape, squeeze=False)
    for group in ranking_groups(records):
        for record in group.runs:
            record["label"] = f"{record['architecture']}{f' ({group.short})' if group.mark else ''}"
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
        return empty_figure("Speed and memory: no run is finished yet")
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


def plot_expert_balance(runs: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Draw how evenly experts are used against tokens: a column a measure, a row a size and stage.

    A line is a run's mean over its layers, its band goes from the lowest layer to the highest: a layer that collapses
    widens the band, however many others are even.
    """
    measured = metrics[metrics[layer_columns(metrics, "load_entropy")].notna().any(axis=1)]
    drawn = set(measured["run"])
    records = [record for record in to_records(runs) if record["run"] in drawn]
    if not records:
        return empty_figure("Balance of experts: nothing measured yet")
    sizes = list(dict.fromkeys(record["size"] for record in records))
    places = list(product(sizes, dict.fromkeys(measured["stage"])))
    figure = Figure(figsize=(1 + 3.4 * len(BALANCE), 1.3 + 2.6 * len(places)), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(places), len(BALANCE), squeeze=False)
    points: dict[str, Any] = {str(run): rows for run, rows in measured.groupby("run", sort=False)}
    for (size, stage), row in zip(places, panels, strict=True):
        members = [record for record in records if record["size"] == size]
        for (name, title), panel in zip(BALANCE.items(), row, strict=True):
            for record in members:
                rows = points[record["run"]]
                colour = style_of(record["architecture"])[0]
                _draw_layers(panel, rows[rows["stage"] == stage], name, colour, len(members))
            style_axes(panel, "tokens", [])
            panel.set_ylim(0, 1.04 if name == "load_entropy" else max(1.0, panel.get_ylim()[1]))
            panel.set_title(title, loc="left", fontsize=11)
        row[0].set_ylabel(stage if len(sizes) == 1 else f"{stage}, {size}")
    for panel in panels[-1]:
        panel.set_xlabel("tokens in the stage")
    figure.suptitle("Balance of experts, layer by layer", x=0.01, ha="left", fontsize=13, fontweight="bold")
    handles = _architecture_lines(records, markers=False)
    handles.append(Line2D([], [], color=FAINT, linewidth=1.6, label="mean over layers"))
    handles.append(Patch(color=FAINT, alpha=0.3, label="lowest to highest layer"))
    add_legend(figure, handles)
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
        colour, marker = style_of(record["architecture"])
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
    style_axes(panel, axis, starts)
    if validation:
        references = _reference_levels(members, stage)
        low, high = _loss_range(validation, list(references.values()))
        panel.set_ylim(low, high)
        for loss in references.values():
            panel.axhline(loss, color=FAINT, linestyle=(0, (5, 3)), linewidth=1, zorder=2)
        labels = [(name, loss, FAINT) for name, loss in references.items()]
        if len(labels) + len(finals) <= MAX_LABELS:
            labels += [(name, float(np.mean(losses)), colour) for (name, colour), losses in finals.items()]
        label_right(panel, labels)


def _draw_layers(panel: Axes, rows: pd.DataFrame, measure: str, colour: str, runs: int) -> None:
    layers = rows[layer_columns(rows, measure)].to_numpy(dtype=float)
    known = np.isfinite(layers).any(axis=1)
    x, layers = rows["tokens"].to_numpy(dtype=float)[known], layers[known]
    if not len(x):
        return
    low, high = np.nanmin(layers, axis=1), np.nanmax(layers, axis=1)
    panel.fill_between(x, low, high, color=colour, alpha=0.25 / runs**0.5, linewidth=0, zorder=1)
    panel.plot(x, np.nanmean(layers, axis=1), color=colour, linewidth=1.6 * runs**-0.3, zorder=3)


def layer_columns(metrics: pd.DataFrame, measure: str) -> list[str]:
    """Name the columns of a measure of BALANCE, one a layer of experts."""
    return [str(column) for column in metrics.columns if re.fullmatch(rf"moe/layer_\d+/{measure}", str(column))]


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


def _draw_bars(panel: Axes, members: list[Record], key: str, show: Callable[[float], str]) -> None:
    values: dict[str, list[float]] = {}
    for record in members:
        values.setdefault(str(record["architecture"]), []).extend([record[key]] if record[key] is not None else [])
    means = [float(np.mean(found)) if found else 0.0 for found in values.values()]
    colours = [style_of(name)[0] for name in values]
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
    handles = _architecture_lines(records)
    handles.append(Line2D([], [], color=FAINT, marker="o", markersize=5, label="validation"))
    handles.append(Line2D([], [], color=FAINT, alpha=0.5, linewidth=1, label="training"))
    if any(record["status"] not in ("done", "running") for record in records):
        handles.append(Line2D([], [], color=INK, linestyle="", marker="x", markersize=8, label="did not finish"))
    add_legend(figure, handles)


def _architecture_lines(records: list[Record], markers: bool = True) -> list[Artist]:
    return [
        Line2D([], [], color=style_of(name)[0], marker=style_of(name)[1] if markers else "", markersize=5, label=name)
        for name in dict.fromkeys(str(record["architecture"]) for record in records)
    ]


def _place(record: Record) -> str:
    threads = record["threads"]
    return str(record["device"] or "unknown device") + (f", {threads} threads" if threads else "")
