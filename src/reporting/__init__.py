"""Reports: a pure function of a directory of runs. Nothing here imports torch, so a notebook opens at once."""

from src.reporting.data.artifacts import load_samples, load_searches
from src.reporting.data.publish import keep_runs, repeated_lines
from src.reporting.data.runs import load_metrics, load_runs
from src.reporting.output.write import markdown_table, write_report
from src.reporting.plots.context import plot_positions, plot_recall
from src.reporting.plots.figures import plot_loss, plot_speed
from src.reporting.plots.scaling import plot_scaling
from src.reporting.statistics.scaling_laws import fit_laws, law_lines
from src.reporting.statistics.verdicts import verdict_lines
from src.reporting.tables.comparison import comparison_text
from src.reporting.tables.learning_rates import learning_rate_tables, plot_learning_rates

__all__ = [
    "comparison_text",
    "fit_laws",
    "keep_runs",
    "law_lines",
    "learning_rate_tables",
    "load_metrics",
    "load_runs",
    "load_samples",
    "load_searches",
    "markdown_table",
    "plot_learning_rates",
    "plot_loss",
    "plot_positions",
    "plot_recall",
    "plot_scaling",
    "plot_speed",
    "repeated_lines",
    "verdict_lines",
    "write_report",
]
