"""Spikes are reported; noise and a falling loss are not."""

import json
import math

import pandas as pd
import pytest

from src.reporting import write_report
from src.reporting.statistics.training_anomalies import anomaly_lines


def make_metrics(losses, skipped=None, stage="language"):
    steps = range(1, len(losses) + 1)
    rows = {"run": "dense-nano", "stage": stage, "step": list(steps), "train/loss": losses}
    return pd.DataFrame(rows | ({"train/skipped_steps": skipped} if skipped else {}))


def falling_losses(count, noise=0.0):
    return [3 + 5 * math.exp(-step / 30) + noise * math.sin(7 * step) for step in range(count)]


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_a_falling_loss_with_noise_has_no_spikes(noise):
    assert anomaly_lines(make_metrics(falling_losses(200, noise))) == []


def test_a_spike_is_reported_with_position_and_height():
    losses = falling_losses(100, 0.05)
    losses[60:63] = [7.5, 6.0, 5.9]
    (line,) = anomaly_lines(make_metrics(losses))
    assert line.startswith("dense-nano: the training loss of stage language jumped to 7.50 at step 61, from 3.")
    assert line.endswith(", and 2 rows more")


def test_too_few_rows_and_missing_values_are_not_spikes():
    assert anomaly_lines(make_metrics([3.0] * 5 + [9.0])) == []
    assert anomaly_lines(make_metrics([math.nan] * 30)) == []
    assert anomaly_lines(pd.DataFrame({"run": [], "stage": [], "step": []})) == []


def test_skipped_steps_are_reported_once_per_stage():
    skipped = [0] * 10 + [1] * 5 + [3] * 5
    assert anomaly_lines(make_metrics([3.0] * 20, skipped)) == [
        "dense-nano: 3 steps of stage language were skipped because their gradients were not finite"
    ]


def test_the_report_contains_anomalies(four):
    run_dir = four.sweep.parents[1] / "runs"
    file = next(run_dir.glob("moe-*")) / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    place = next(i for i, row in enumerate(rows) if row["step"] == 40 and "train/loss" in row)
    rows[place]["train/loss"] = 30.0
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(four.sweep)
    for text in (page.read_text(), (page.parent / "summary.md").read_text()):
        assert "Training anomalies" in text and "jumped to 30.00 at step 40" in text
