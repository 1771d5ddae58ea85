"""What went wrong on the way, although a run may have ended well: spikes of the loss, steps that were skipped."""

from statistics import median

import pandas as pd

from src.reporting.data.json_values import Record
from src.reporting.data.runs import to_records

BEFORE = 10
"""Rows of the training loss that a row is held against."""
LEAST_JUMP = 0.5
"""Nats above their median, at the least, ..."""
TIMES_SPREAD = 8.0
"""... and so many times their median absolute deviation: noise of small batches is no spike."""


def course_lines(metrics: pd.DataFrame) -> list[str]:
    """Tell of each run and stage with a spike of the training loss, or with skipped steps.

    metrics: as `load_metrics` gives them, or thinned out; a spike between two rows is not seen.
    """
    if "train/loss" not in metrics:
        return []
    courses: dict[tuple[str, str], list[Record]] = {}
    for row in to_records(metrics):
        if row["train/loss"] is not None:
            courses.setdefault((row["run"], row["stage"]), []).append(row)
    lines: list[str] = []
    for (run, stage), rows in courses.items():
        losses = [float(row["train/loss"]) for row in rows]
        if spikes := find_spikes(losses):
            first, more = spikes[0], len(spikes) - 1
            lines.append(
                f"{run}: the training loss of stage {stage} jumped to {losses[first]:.2f} at step "
                f"{rows[first]['step']:.0f}, from {median(losses[first - BEFORE : first]):.2f}"
                f"{f', and {more} rows more' if more else ''}"
            )
        if skipped := max(row.get("train/skipped_steps") or 0 for row in rows):
            lines.append(f"{run}: {skipped:.0f} steps of stage {stage} were skipped, their gradients not being finite")
    return lines


def find_spikes(losses: list[float]) -> list[int]:
    """Return the places of losses that lie far above the `BEFORE` ones before them."""
    found: list[int] = []
    for place in range(BEFORE, len(losses)):
        before = losses[place - BEFORE : place]
        usual = median(before)
        jump = losses[place] - usual
        if jump > LEAST_JUMP and jump > TIMES_SPREAD * median(abs(loss - usual) for loss in before):
            found.append(place)
    return found
