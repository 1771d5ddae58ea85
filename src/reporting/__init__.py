"""Reports: a pure function of a directory of runs. Nothing here imports torch, so a notebook opens at once."""

from src.reporting.context import plot_positions, plot_recall
from src.reporting.keep import keep_runs, repeated_lines
from src.reporting.learning_rates import learning_rate_tables, plot_learning_rates
from src.reporting.load import load_metrics, load_runs
from src.reporting.plots import plot_loss, plot_speed
from src.reporting.render import markdown_table, write_report
from src.reporting.results import load_samples, load_searches
from src.reporting.scaling import fit_laws, law_lines, plot_scaling
from src.reporting.tables import comparison_text
from src.reporting.verdicts import verdict_lines

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
