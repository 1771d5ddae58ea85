"""Colors, markers and legends that all figures share."""

import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from src.config.schema import ROOT
from src.reporting.data.runs import ARCHITECTURES
from src.reporting.plots.figure import add_legend
from src.reporting.plots.style import COLORS, style_of


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


def test_every_architecture_has_its_own_color_marker_and_dash() -> None:
    styles = [style_of(name) for name in ARCHITECTURES]
    assert [len(set(values)) for values in zip(*styles, strict=True)] == [len(ARCHITECTURES)] * 3
    assert style_of("of our own") == style_of("of our own")


def luminance(color: str) -> float:
    """Return the relative luminance of a color (WCAG 2.2)."""
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["#ffffff", "#14181d"])
@pytest.mark.parametrize("color", COLORS)
def test_every_line_has_enough_contrast_on_the_light_and_the_dark_page(color: str, page: str) -> None:
    assert page in (ROOT / "src/reporting/output/assets/page.css").read_text() or page == "#ffffff"
    low, high = sorted((luminance(color), luminance(page)))
    assert (high + 0.05) / (low + 0.05) >= 3
