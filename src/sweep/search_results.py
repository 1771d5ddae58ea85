"""The results of a search for learning rates: the best trial of each architecture, as a record and as a table."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from src.config.formatting import NOTHING, table, terminal_width
from src.reporting.data.artifacts import next_rate_fails


class Trial(NamedTuple):
    """One learning rate and warm-up, tried with every seed."""

    learning_rate: float
    loss: float
    """Validation bits per byte, or nats per answer, averaged over stages and seeds; infinite if it diverged."""
    warmup_steps: int | None = None
    """None: the default, as the warm-up is not searched."""


Trials = dict[str, list[Trial]]
"""Trials by architecture."""


def find_best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.loss)


def find_edge(trials: Sequence[Trial], low: float | None = None, high: float | None = None) -> str | None:
    """Return "low" or "high" if the best rate is at that edge of the tried range, otherwise None."""
    rate, rates = find_best(trials).learning_rate, [trial.learning_rate for trial in trials]
    if rate <= (min(rates) if low is None else low):
        return "low"
    return "high" if rate >= (max(rates) if high is None else high) else None


def to_record(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the result for an architecture as plain values for JSON."""
    best = find_best(trials)
    return {
        "learning_rate": best.learning_rate,
        "warmup_steps": best.warmup_steps,
        "edge": find_edge(trials),
        "trials": [
            {
                "learning_rate": trial.learning_rate,
                "warmup_steps": trial.warmup_steps,
                "bits_per_byte": trial.loss if math.isfinite(trial.loss) else None,
            }
            for trial in trials
        ],
    }


def format_results(rates: dict[str, Any], size: str, unit: str) -> list[str]:
    """Format the results as a table: one row per architecture, one column per rate. unit: of the losses."""
    tried = sorted({trial["learning_rate"] for found in rates.values() for trial in found["trials"]})
    rows: list[list[str]] = []
    for name, found in rates.items():
        for warmup in dict.fromkeys(trial["warmup_steps"] for trial in found["trials"]):
            own = [trial for trial in found["trials"] if trial["warmup_steps"] == warmup]
            losses = {trial["learning_rate"]: trial["bits_per_byte"] for trial in own}
            cells = [_format_loss(losses[rate]) if rate in losses else NOTHING for rate in tried]
            best = NOTHING, NOTHING, NOTHING
            if warmup == found["warmup_steps"]:
                fails = "yes" if next_rate_fails(list(losses.items())) else NOTHING
                best = f"{found['learning_rate']:g}", found["edge"] or NOTHING, fails
            name_of_row = f"{name} {size}" if warmup is None else f"{name} {size}, warm-up {warmup}"
            rows.append([name_of_row, *best, *cells])
    header = [
        f"validation {unit} at",
        "best rate",
        "at the edge",
        "next rate fails",
        *(f"{rate:g}" for rate in tried),
    ]
    droppable = [*header[4:][::-1], "at the edge", "next rate fails"]
    return ["", *table(header, rows, droppable, terminal_width()), ""]


def _format_loss(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"
