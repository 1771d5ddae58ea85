"""The figures of what a model makes of its context: loss by position, recall by distance, probes by distance.

A row of panels a group of comparable runs, a column a stage. A line is the mean over the seeds of an architecture, its
band goes from the lowest seed to the highest.
"""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter

from src.reporting.data.artifacts import load_context
from src.reporting.data.runs import to_records
from src.reporting.plots.style import DPI, FAINT, add_legend, empty_figure, style_of, style_panel
from src.reporting.statistics.verdicts import ranking_groups

LEAST_RECALLS = 10
"""Ranges of distance with fewer of them are left out: their share of hits is chance."""

_DASHES: Any = (0, (5, 3))

Measures = dict[str, dict[str, list[float]]]
"""What a run measured in a stage (see `load_context`): measure -> name -> a number a range."""
Gathered = dict[str, dict[str, dict[str, list[Measures]]]]
"""Title of a group of comparable runs -> stage -> architecture -> its seeds."""
Draw = Callable[[Axes, str, Sequence[Measures]], None]
"""Draws the seeds of an architecture into a panel."""


def plot_positions(runs: pd.DataFrame) -> Figure:
    """Draw validation loss by position in the window, and the floor of the same tokens where the text is generated."""

    def draw(panel: Axes, architecture: str, seeds: Sequence[Measures]) -> None:
        _draw_band(panel, architecture, [measures["positions"] for measures in seeds], "loss")
        positions = seeds[0]["positions"]
        if "floor" in positions:
            panel.plot(positions["to"], positions["floor"], color=FAINT, linestyle=_DASHES, linewidth=1.2, zorder=2)
        panel.set_xlabel("position in the window (tokens seen)")

    floor = Line2D([], [], color=FAINT, linestyle=_DASHES, linewidth=1.2, label="floor of the same tokens")
    found = gather_context(runs, "positions")["positions"]
    shown = [floor] if _has_floor(found) else []
    return _draw_figure(found, draw, "Loss by position", "loss (nats per token)", *shown)


def plot_recall(runs: pd.DataFrame) -> Figure:
    """Draw the share of names that are recalled by the distance to their last mention."""

    def draw(panel: Axes, architecture: str, seeds: Sequence[Measures]) -> None:
        _draw_band(panel, architecture, [where_many(measures["recall"]) for measures in seeds], "accuracy")
        guesses = [value for measures in seeds for value in measures["hidden"].get("accuracy", [])]
        if guesses:
            colour = style_of(architecture)[0]
            panel.axhline(fmean(guesses), color=colour, linestyle=":", linewidth=1.2, zorder=2)
        panel.set_ylim(0, 1.04)
        panel.set_xlabel("distance to the last mention (tokens)")

    hidden = Line2D([], [], color=FAINT, linestyle=":", linewidth=1.2, label="mention out of the window")
    found = gather_context(runs, "recall")["recall"]
    return _draw_figure(found, draw, "Recall by distance", "names recalled whole", hidden)


def plot_beyond(runs: pd.DataFrame) -> Figure:
    """Draw test loss by position in windows longer than the training context, whose end is marked."""
    trained = sorted({run["contract"].get("training.seq_len") or 0 for run in to_records(runs)} - {0})

    def draw(panel: Axes, architecture: str, seeds: Sequence[Measures]) -> None:
        _draw_band(panel, architecture, [measures["beyond"] for measures in seeds], "loss")
        for length in trained:
            panel.axvline(length, color=FAINT, linestyle=_DASHES, linewidth=1.2, zorder=2)
        panel.set_xlabel("position in the window (tokens seen)")

    end = Line2D([], [], color=FAINT, linestyle=_DASHES, linewidth=1.2, label="training context")
    found = gather_context(runs, "beyond")["beyond"]
    return _draw_figure(found, draw, "Loss past the training context", "loss (nats per token)", end)


def plot_probe(runs: pd.DataFrame, probe: str) -> Figure:
    """Draw how many nats a mention saves by its distance: `probe` is one of PROBES."""

    def draw(panel: Axes, architecture: str, seeds: Sequence[Measures]) -> None:
        _draw_band(panel, architecture, [measures[f"probe/{probe}"] for measures in seeds], "gain")
        panel.axhline(0, color=FAINT, linestyle=_DASHES, linewidth=1.2, zorder=2)
        panel.set_xlabel("distance to the mention (tokens)")

    none = Line2D([], [], color=FAINT, linestyle=_DASHES, linewidth=1.2, label="no use made of it")
    measure = f"probe/{probe}"
    found = gather_context(runs, measure)[measure]
    return _draw_figure(found, draw, f"{probe.capitalize()} by distance", "nats saved a token", none)


def has_context(runs: pd.DataFrame, measure: str) -> bool:
    """Tell whether any finished run has such a measure (see `load_context`)."""
    done = runs[runs["status"] == "done"]
    return any(measures[measure] for folder in done["run_dir"] for measures in load_context(folder).values())


def gather_context(runs: pd.DataFrame, *wanted: str) -> dict[str, Gathered]:
    """Load the measures of every group of finished runs, each of those wanted by its name."""
    found: dict[str, Gathered] = {measure: {} for measure in wanted}
    for group in ranking_groups(to_records(runs)):
        for run in group.runs:
            for stage, measures in load_context(run["run_dir"]).items():
                for measure in wanted:
                    if measures[measure]:
                        members = found[measure].setdefault(group.title, {}).setdefault(stage, {})
                        members.setdefault(str(run["architecture"]), []).append(measures)
    return found


class Band(NamedTuple):
    """A measure over the seeds of an architecture."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def band_of(seeds: Sequence[dict[str, list[float]]], name: str) -> Band:
    """Return the mean, the least and the greatest of the seeds in every range that any of them has."""
    values: dict[float, list[float]] = {}
    for seed in seeds:
        for end, value in zip(seed.get("to", []), seed.get(name, []), strict=False):
            values.setdefault(end, []).append(value)
    x = sorted(values)
    return Band(x, *([over(values[end]) for end in x] for over in (fmean, min, max)))


def where_many(recall: dict[str, list[float]]) -> dict[str, list[float]]:
    """Leave out the ranges with few recalls."""
    kept = [index for index, n in enumerate(recall.get("n", [])) if n >= LEAST_RECALLS]
    return {name: [values[index] for index in kept] for name, values in recall.items()}


def _has_floor(found: Gathered) -> bool:
    """Tell whether the loss by position has a floor: of generated text alone is the entropy known."""
    groups = (members for stages in found.values() for members in stages.values())
    return any(
        "floor" in measures["positions"] for members in groups for seeds in members.values() for measures in seeds
    )


def _draw_figure(found: Gathered, draw: Draw, title: str, y_label: str, *references: Line2D) -> Figure:
    if not found:
        return empty_figure(f"{title}: nothing measured yet")
    stages = list(dict.fromkeys(stage for panels in found.values() for stage in panels))
    figure = Figure(figsize=(1.2 + 4.9 * len(stages), 1.1 + 3.5 * len(found)), dpi=DPI, layout="constrained")
    for (group, members), row in zip(
        found.items(), figure.subplots(len(found), len(stages), squeeze=False), strict=True
    ):
        for stage, panel in zip(stages, row, strict=True):
            for architecture, seeds in members.get(stage, {}).items():
                draw(panel, architecture, seeds)
            panel.set_title(stage if len(found) == 1 else f"{stage}, {group}", loc="left", fontsize=11)
            style_panel(panel)
            if _has_points(panel):  # without any, a logarithmic axis fails
                panel.set_xscale("log", base=2)
                panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        row[0].set_ylabel(y_label)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    names = dict.fromkeys(name for panels in found.values() for members in panels.values() for name in members)
    styles = {name: style_of(name) for name in names}
    lines = [Line2D([], [], color=colour, marker=marker, label=name) for name, (colour, marker) in styles.items()]
    add_legend(figure, [*lines, *references])
    return figure


def _has_points(panel: Axes) -> bool:
    """Return whether a curve has any point; a line across the panel has none."""
    return any(line.get_transform() == panel.transData and np.size(line.get_xdata()) for line in panel.lines)


def _draw_band(panel: Axes, architecture: str, seeds: Sequence[dict[str, list[float]]], name: str) -> None:
    band, (colour, marker) = band_of(seeds, name), style_of(architecture)
    panel.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0, zorder=1)
    panel.plot(band.x, band.mean, color=colour, marker=marker, markersize=4.5, linewidth=1.6)
