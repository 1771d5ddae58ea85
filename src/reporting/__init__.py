"""Reports: a pure function of a directory of runs. Nothing here imports torch, so a notebook opens at once."""

from src.reporting.context import plot_positions, plot_recall
from src.reporting.load import load_metrics, load_runs, load_samples
from src.reporting.plots import plot_loss, plot_speed
from src.reporting.render import write_report
from src.reporting.tables import comparison_text
from src.reporting.verdicts import verdict_lines

__all__ = [
    "comparison_text",
    "load_metrics",
    "load_runs",
    "load_samples",
    "plot_loss",
    "plot_positions",
    "plot_recall",
    "plot_speed",
    "verdict_lines",
    "write_report",
]
