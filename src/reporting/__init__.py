"""Reports: a pure function of a directory of runs. Nothing here imports torch, so a notebook opens at once."""

from src.reporting.data.artifacts import load_samples, load_searches
from src.reporting.data.metrics_file import load_metrics
from src.reporting.data.publish import publish_runs, repeated_lines
from src.reporting.data.runs import load_runs
from src.reporting.output.notebook import show_chart
from src.reporting.output.write import markdown_table, write_report
from src.reporting.plots.charts import learning_rate_chart, scaling_chart
from src.reporting.plots.context import position_chart, recall_chart
from src.reporting.plots.cost import cost_chart
from src.reporting.plots.figure import draw
from src.reporting.plots.training import loss_chart, speed_chart
from src.reporting.plots.verdict import verdict_chart
from src.reporting.statistics.answers import answer_lines
from src.reporting.statistics.scaling_laws import fit_laws, law_lines
from src.reporting.statistics.verdicts import verdict_lines
from src.reporting.tables.learning_rates import learning_rate_lines, learning_rate_tables
from src.reporting.tables.terminal import comparison_text

__all__ = [
    "answer_lines",
    "comparison_text",
    "cost_chart",
    "draw",
    "fit_laws",
    "law_lines",
    "learning_rate_chart",
    "learning_rate_lines",
    "learning_rate_tables",
    "load_metrics",
    "load_runs",
    "load_samples",
    "load_searches",
    "loss_chart",
    "markdown_table",
    "position_chart",
    "publish_runs",
    "recall_chart",
    "repeated_lines",
    "scaling_chart",
    "show_chart",
    "speed_chart",
    "verdict_chart",
    "verdict_lines",
    "write_report",
]
