"""How sensitive each architecture is to its learning rate: what `python -m src.tune` found, as a curve and a table."""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from src.reporting.data.artifacts import Search, beside_cliff, load_searches
from src.reporting.plots.style import DPI, INK, add_legend, style_of, style_panel
from src.reporting.tables.comparison import Column, Table, Titled

FIGURE = "learning_rates.png"


def learning_rate_tables(directory: Path) -> list[Titled]:
    """Build the table of what was found, if anything was searched for these runs."""
    searches = load_searches(directory)
    rows: list[list[str]] = []
    for search in searches:
        for name, (tried, edge) in search.tried.items():
            if points := search.points(name):
                rate, loss = min(points, key=lambda point: point[1])
                cliff = "yes" if beside_cliff(tried) else "no"
                rows.append([name, search.size, f"{rate:g}", f"{loss:.3f}", str(len(tried)), edge or "no", cliff])
    names = ("architecture", "size", "best rate", "bits/byte", "rates", "edge", "cliff")
    columns = [Column("", name) for name in names]
    note = (
        "Bits per byte of validation text, a mean over stages and over seeds that no comparison uses. edge: the best "
        "rate is the lowest or the highest that was tried, so a better one may lie beyond. cliff: the next rate above "
        "fails, so other seeds may fare worse at the best; the one below is safer. "
    )
    note += " ".join(f"{search.size}: {search.text}." for search in searches)
    return [Titled("Learning rates", Table(columns, rows, []), note)] if rows else []


def learning_rate_figures(directory: Path) -> dict[str, Callable[[], Figure]]:
    """List what draws the curves, by file name, if anything was searched for these runs."""
    searches = load_searches(directory)
    return {FIGURE: lambda: plot_learning_rates(searches)} if searches else {}


def plot_learning_rates(searches: Sequence[Search]) -> Figure:
    """Draw validation loss against learning rate, a panel a search: the chosen rate ringed, what diverged missing."""
    figure = Figure(figsize=(1.2 + 4.9 * len(searches), 4.2), dpi=DPI, layout="constrained")
    for search, panel in zip(searches, figure.subplots(1, len(searches), squeeze=False)[0], strict=True):
        for name in search.tried:
            if points := search.points(name):
                colour, marker = style_of(name)
                panel.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4.5, linewidth=1.6)
                best = min(points, key=lambda point: point[1])
                panel.plot(*best, marker="o", markersize=12, markerfacecolor="none", markeredgecolor=INK, linestyle="")
        style_panel(panel)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("peak learning rate")
        panel.set_title(search.size, loc="left", fontsize=11)
    figure.axes[0].set_ylabel("validation bits per byte")
    figure.suptitle("Sensitivity to the learning rate", x=0.01, ha="left", fontsize=13, fontweight="bold")
    styles = {name: style_of(name) for search in searches for name in search.tried}
    lines = [Line2D([], [], color=colour, marker=marker, label=name) for name, (colour, marker) in styles.items()]
    chosen = Line2D([], [], color=INK, marker="o", markersize=10, markerfacecolor="none", linestyle="", label="chosen")
    add_legend(figure, [*lines, chosen])
    return figure
