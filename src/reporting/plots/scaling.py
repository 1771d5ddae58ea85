"""Loss against size or budget, with the fitted scaling laws."""

# pyright: reportUnknownMemberType=false

import pandas as pd
from matplotlib.figure import Figure

from src.reporting.plots.style import DPI, empty_figure, style_of, style_panel
from src.reporting.statistics.scaling_laws import AXES, fit_laws, law_lines


def plot_scaling(runs: pd.DataFrame, axis: str = "active_non_embedding_params", stage: str | None = None) -> Figure:
    """Draw loss against size, both axes logarithmic: a point a size, a line a law."""
    laws = fit_laws(runs, axis, stage)
    if not laws:
        return empty_figure(f"Scaling: {law_lines(laws)[0]}")
    figure = Figure(figsize=(7, 4.6), dpi=DPI, layout="constrained")
    panel = figure.subplots()
    for law in laws:
        colour, marker = style_of(law.architecture)
        panel.plot(law.x, law.y, color=colour, marker=marker, linestyle="", label=law.architecture)
        ends = [min(law.x), max(law.x)]
        panel.plot(ends, [law.at(end) for end in ends], color=colour, linewidth=1.4)
    panel.set_xscale("log")
    panel.set_yscale("log")
    style_panel(panel)
    panel.set_xlabel(AXES[axis])
    panel.set_ylabel("bits per byte")
    panel.legend(frameon=False)
    return figure
