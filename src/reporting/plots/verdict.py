"""The verdict of a report as a figure: every seed, each mean with its interval, and what is significant.

A row of panels is a group of comparable runs, a column is a stage. The architectures keep the order of the tables.
"""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from statistics import fmean

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from src.reporting.data.runs import split_of, stage_names, to_records
from src.reporting.plots.style import DPI, FAINT, INK, add_legend, empty_figure, style_of, style_panel
from src.reporting.statistics.comparison import mean_and_half_width
from src.reporting.statistics.verdicts import SPLITS, Headline, compare_headlines

FIGURE = "verdict.png"
SEED_OFFSET = 0.24
"""How far below its mean an architecture has its seeds, in rows, so that neither hides the other."""
NOT_RANKED = "unstable, not ranked"


def verdict_figures(runs: pd.DataFrame, margin: float | None = None) -> dict[str, Callable[[], Figure]]:
    """List what draws the verdict, by file name, if there is one.

    margin: the difference in bits per byte within which architectures count as equivalent (`verdict.margin`).
    """
    return {FIGURE: lambda: plot_verdict(runs, margin)} if compare_headlines(runs) else {}


def plot_verdict(runs: pd.DataFrame, margin: float | None = None) -> Figure:
    """Draw bits per byte of every architecture: seeds, mean with its 95% interval, and the verdict in words.

    An unstable architecture is shown by its seeds alone. margin: as for `verdict_figures`.
    """
    headlines = compare_headlines(runs)
    if not headlines:
        return empty_figure("Verdict: none, see the report for the reason")
    groups = list(dict.fromkeys(headline.group.title for headline in headlines))
    stages = list(dict.fromkeys(headline.stage for headline in headlines))
    names = {
        title: list(next(each for each in headlines if each.group.title == title).group.by_architecture())
        for title in groups
    }
    heights = [0.5 + 0.36 * len(names[title]) for title in groups]
    size = (1.2 + 4.4 * len(stages), 1.3 + sum(heights) + 0.25 * len(groups))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(len(groups), len(stages), squeeze=False, height_ratios=heights)
    found = {(headline.group.title, headline.stage): headline for headline in headlines}
    split = SPLITS[split_of(to_records(runs), stage_names(runs))]
    for title, row in zip(groups, panels, strict=True):
        labels = names[title]  # beside the first panel of the row
        for stage, panel in zip(stages, row, strict=True):
            if (headline := found.get((title, stage))) is None:
                panel.set_axis_off()
                continue
            panel.set_title(stage if len(groups) == 1 else f"{stage}, {title}", loc="left", fontsize=11)
            _draw_headline(panel, headline, names[title], margin)
            panel.set_yticks(range(len(names[title])), labels)
            labels = [""] * len(labels)
    for panel in panels[-1]:
        panel.set_xlabel("bits per byte (less is better)")
    figure.suptitle(f"Verdict on {split} text", x=0.01, ha="left", fontsize=13, fontweight="bold")
    seeds = Line2D([], [], color=FAINT, marker="o", markersize=4, markerfacecolor="white", linestyle="", label="seed")
    mean = Line2D([], [], color=FAINT, marker="o", markersize=6, linewidth=1.6, label="mean with its own 95% interval")
    add_legend(figure, [mean, seeds])
    return figure


def verdict_words(headline: Headline, margin: float | None = None) -> dict[str, str]:
    """Say in a few words what the verdict is on each architecture of a headline."""
    comparison = headline.comparison
    words = {comparison.leader: "best" if headline.has_best else "lowest mean"}
    for pair in comparison.behind_leader():
        result = headline.result(pair, margin)
        words[pair.other] = {"equivalent": result, "not significant": "not significantly worse"}.get(
            result, "significantly worse"
        )
    return words | dict.fromkeys(comparison.unstable, NOT_RANKED)


def _draw_headline(panel: Axes, headline: Headline, names: list[str], margin: float | None) -> None:
    style_panel(panel)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(6))
    comparison, words = headline.comparison, verdict_words(headline, margin)
    for place, name in enumerate(names):
        colour, marker = style_of(name)
        seeds = comparison.stable.get(name, comparison.unstable.get(name, []))
        text = words[name]
        if name in comparison.stable:
            _, half = mean_and_half_width(seeds)
            panel.errorbar(
                fmean(seeds), place, xerr=half, color=colour, marker=marker, markersize=6, capsize=3, zorder=2
            )
            text = f"{fmean(seeds):.3f} {text}"
        below = SEED_OFFSET if name in comparison.stable else 0.0
        panel.plot(
            seeds, [place + below] * len(seeds), color=colour, marker="o", markersize=4, markerfacecolor="white",
            linestyle="", zorder=3,
        )  # fmt: skip
        panel.annotate(
            text, (1, place), xytext=(5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", color=INK, annotation_clip=False, fontweight="bold" if name == comparison.leader else "normal",
        )  # fmt: skip
    panel.set_ylim(len(names) - 0.5, -0.5)
