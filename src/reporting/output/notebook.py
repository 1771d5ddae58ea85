"""Show a chart in a notebook: as the report's page does, or as a picture where a notebook shows no HTML."""

from html import escape

from src.reporting.output.html_page import chart_element, write_document
from src.reporting.plots.chart import Chart
from src.reporting.plots.figure import draw, to_png

PLOT_PX, ROW_PX, AROUND_PX = 370, 35, 200
"""Heights of a plot of lines, of an architecture in other plots, and of what is around the plots."""


class NotebookChart:
    """A chart that displays itself; a notebook calls the two methods."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart

    def _repr_html_(self) -> str | None:
        """Return a frame with the chart, drawn by the Plotly that the report brings along."""
        if self.chart.is_empty:
            return None
        page = write_document(self.chart.title, f'<div class="charts">{chart_element(self.chart)}</div>', [self.chart])
        panels = [panel for panel in self.chart.panels if panel.traces]
        is_line = self.chart.kind == "lines"
        height = max(PLOT_PX if is_line else 80 + ROW_PX * len(panel.traces) for panel in panels)
        height = AROUND_PX + height * -(-len(panels) // 2)
        return f'<iframe srcdoc="{escape(page)}" width="100%" height="{height}" style="border: 0"></iframe>'

    def _repr_png_(self) -> bytes:
        return to_png(draw(self.chart))


def show_chart(chart: Chart) -> NotebookChart:
    """Return a chart for display in a notebook."""
    return NotebookChart(chart)
