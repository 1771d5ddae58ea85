"""Find anomalies during training, also of runs that finished: spikes of the loss and skipped steps."""

from statistics import median

import pandas as pd

from src.reporting.data.json_values import Record
from src.reporting.data.runs import to_records

WINDOW = 10
"""Rows of the training loss that a row is compared with."""
MIN_JUMP = 0.5
"""A spike is at least so many nats above the median of the window."""
MIN_DEVIATIONS = 8.0
"""A spike is at least so many median absolute deviations above it, so that noise of small batches is none."""


def anomaly_lines(metrics: pd.DataFrame) -> list[str]:
    """Name each run and stage with a spike of the training loss or with skipped steps.

    metrics: as `load_metrics` gives them, or thinned out; a spike between two rows is not seen.
    """
    if "train/loss" not in metrics:
        return []
    by_stage: dict[tuple[str, str], list[Record]] = {}
    for row in to_records(metrics):
        if row["train/loss"] is not None:
            by_stage.setdefault((row["run"], row["stage"]), []).append(row)
    lines: list[str] = []
    for (run, stage), rows in by_stage.items():
        losses = [float(row["train/loss"]) for row in rows]
        if spikes := find_spikes(losses):
            first, more = spikes[0], len(spikes) - 1
            lines.append(
                f"{run}: the training loss of stage {stage} jumped to {losses[first]:.2f} at step "
                f"{rows[first]['step']:.0f}, from {median(losses[first - WINDOW : first]):.2f}"
                f"{f', and {more} rows more' if more else ''}"
            )
        if skipped := max(row.get("train/skipped_steps") or 0 for row in rows):
            lines.append(
                f"{run}: {skipped:.0f} steps of stage {stage} were skipped because their gradients were not finite"
            )
    return lines


def find_spikes(losses: list[float]) -> list[int]:
    """Return the indices of losses far above the `WINDOW` ones before them."""
    found: list[int] = []
    for place in range(WINDOW, len(losses)):
        before = losses[place - WINDOW : place]
        usual = median(before)
        jump = losses[place] - usual
        if jump > MIN_JUMP and jump > MIN_DEVIATIONS * median(abs(loss - usual) for loss in before):
            found.append(place)
    return found
