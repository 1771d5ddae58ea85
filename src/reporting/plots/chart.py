"""A chart of a report as plain values, from which the page (Plotly) and the image files (matplotlib) are drawn.

A chart has panels, a panel has traces. A trace is one architecture: the mean over its seeds, with a band from the
lowest seed to the highest. A chart may offer several x and y axes; each trace has its values for all of them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, cast

from src.reporting.plots.style import GRAY, style_of

Values = list[float]


@dataclass(frozen=True)
class Axis:
    """One axis that a chart offers."""

    label: str
    is_log: bool = False
    limits: tuple[float, float | None] | None = None
    """Where the axis ends; None: at the data."""


@dataclass
class Trace:
    """A line, a row of points, a bar, an interval or a point of a panel."""

    name: str
    """In the legend; traces with equal names share an entry."""
    architecture: str = ""
    """Which architecture the page's filter hides it with; empty for a reference."""
    color: str = GRAY
    marker: str = "o"
    """matplotlib's letter."""
    dash: str = "solid"
    """solid, dash, dot, or lengths in pixels as in `style.DASHES`; empty: points without a line."""
    x: dict[str, dict[str, Values]] = field(default_factory=dict[str, dict[str, Values]])
    """y axis -> x axis -> values; a trace without values for an axis is not drawn against it."""
    y: dict[str, Values] = field(default_factory=dict[str, Values])
    """y axis -> values; a bar or an interval has one."""
    low: dict[str, Values] = field(default_factory=dict[str, Values])
    high: dict[str, Values] = field(default_factory=dict[str, Values])
    """The band around y, where there is one."""
    seeds: dict[str, Values] = field(default_factory=dict[str, Values])
    """The values of single seeds beside a bar, an interval or a point."""
    text: dict[str, str] = field(default_factory=dict[str, str])
    """What is written beside a bar or an interval."""
    corners: dict[str, str] = field(default_factory=dict[str, str])
    """x axis -> where the name of a point stands, as "top right"."""
    level: float | None = None
    """Draws a line across the panel at this y instead."""
    only: list[str] | None = None
    """The y axes on which a level is shown; None: on all."""

    def add_seeds(self, y: str, x: dict[str, Values], seeds: Sequence[Values]) -> None:
        """Add the mean over seeds, and the band from the lowest to the highest if there are several.

        x: the values of each x axis. seeds: as many values of axis y for each seed.
        """
        self.x[y], self.y[y] = x, [fmean(values) for values in zip(*seeds, strict=True)]
        if len(seeds) > 1:
            self.low[y], self.high[y] = ([*map(of, zip(*seeds, strict=True))] for of in (min, max))


@dataclass
class Panel:
    """A plot of a chart. One without traces keeps its place in a figure."""

    title: str
    traces: list[Trace] = field(default_factory=list[Trace])


@dataclass
class Chart:
    """What is drawn, and how it is explained."""

    id: str
    title: str
    note: str
    """What is shown, in a sentence or two: below the title on the page, the caption of its files in Markdown."""
    x: dict[str, Axis]
    y: dict[str, Axis]
    """What can be chosen on the page."""
    files: dict[str, str]
    """Name of an image file without its ending -> the x axis that it shows."""
    panels: list[Panel]
    file_y: tuple[str, ...] = ()
    """The y axes that a file shows; all unless given. With several, each panel is a row and each axis a column."""
    kind: str = "lines"
    """lines, bars, intervals or points; bars and intervals lie horizontally, one below the other. A point has its
    interval and its name beside it; a trace without architecture is a line of steps."""
    has_end_labels: bool = False
    """Whether a file names each line beside its end, with its value."""
    behind: dict[str, str] = field(default_factory=dict[str, str])
    """y axis -> another one, which is drawn faintly behind it."""
    marks: dict[str, Values] = field(default_factory=dict[str, Values])
    """Legend entry -> x of vertical lines in all panels."""
    columns: int = 1
    """How many panels are side by side in a file."""
    is_read_at_minimum: bool = False
    """Whether the result of a line is its lowest value; otherwise its last."""
    says_nothing: str = ""
    """Why the values are no result; such a chart is left out of a report with this reason."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw but references."""
        return all(trace.level is not None for panel in self.panels for trace in panel.traces)


def trace_of(architecture: str, name: str | None = None, dash: str | None = None) -> Trace:
    """Return an empty trace in the style of an architecture; dash: instead of its own."""
    color, marker, own = style_of(architecture)
    return Trace(name or architecture, architecture, color, marker, own if dash is None else dash)


def add_reference(panel: Panel, name: str, level: float, only: list[str] | None = None) -> None:
    """Add a line across a panel, unless it has one of this name."""
    if all(trace.name != name for trace in panel.traces):
        panel.traces.append(Trace(name, dash="dash", level=level, only=only))


def panel_title(stage: str, group: str, groups: Iterable[str]) -> str:
    """Name a panel after its stage, and after its group of comparable runs where there are several groups."""
    return stage if len({*groups}) < 2 else f"{stage}, {group}"


def as_values(chart: Chart) -> dict[str, Any]:
    """Return a chart as values for JSON: five digits, as more cannot be seen, and None for what is not finite."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in cast(dict[str, Any], value).items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in cast(Sequence[Any], value)]
        if isinstance(value, float):
            return float(f"{value:.5g}") if math.isfinite(value) else None
        return value

    values = plain(asdict(chart))
    values["panels"] = [panel for panel in values["panels"] if panel["traces"]]
    return values
