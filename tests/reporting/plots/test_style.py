"""Colors, markers and legends that all figures share."""

import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from src.reporting.data.runs import ARCHITECTURES
from src.reporting.plots.figure import add_legend
from src.reporting.plots.style import style_of


@pytest.mark.parametrize("width", [4, 6.1, 11])
def test_a_legend_is_at_most_as_wide_as_its_figure(width: float) -> None:
    figure = Figure(figsize=(width, 4), layout="constrained")
    figure.subplots().plot([0, 1])
    add_legend(figure, [Line2D([], [], marker="o", label=name) for name in (*ARCHITECTURES, "lowest to highest layer")])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= extent.x0 and extent.x1 <= whole.x1
    columns = {round(text.get_window_extent().x0) for text in legend.get_texts()}
    assert len(columns) > 1 or width == 4


def test_every_architecture_has_its_own_color_and_marker() -> None:
    styles = [style_of(name) for name in ARCHITECTURES]
    assert len({color for color, _ in styles}) == len({marker for _, marker in styles}) == len(ARCHITECTURES)
    assert style_of("of our own") == style_of("of our own")
