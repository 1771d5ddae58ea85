"""Scores on tasks of lm-eval: coverage of the intervals, and their lines and table in a report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.config.formatting import NOTHING
from src.reporting import load_runs
from src.reporting.statistics.task_scores import Scores, difference, interval_of, mean_interval
from src.reporting.statistics.verdicts import verdict_lines
from src.reporting.tables.secondary import further_tables
from tests.reporting.conftest import SweepBuilder

ITEMS, SEEDS = 80, 4


def test_intervals_cover_other_items_and_other_seeds() -> None:
    """Each repetition draws new items and new trainings; intervals over items alone would be too short."""
    draw, hits, narrow = np.random.default_rng(0), 0, 0
    for _ in range(400):
        items, gap = draw.normal(0, 0.3, ITEMS), draw.normal(0, 0.3, ITEMS)
        first = items + gap + 0.1 + draw.normal(0, 0.06, (SEEDS, 1)) + draw.normal(0, 0.1, (SEEDS, ITEMS))
        second = items + draw.normal(0, 0.02, (SEEDS, 1)) + draw.normal(0, 0.1, (SEEDS, ITEMS))
        found = difference(Scores(first), Scores(second), n_pairs=1)
        hits += found.low <= 0.1 <= found.high
        over_items = mean_interval(Scores((first - second).mean(axis=0, keepdims=True)))
        narrow += over_items.low <= 0.1 <= over_items.high
    assert 363 <= hits <= 397, "95% of 400 is 380, give or take four standard deviations"
    assert narrow < 360


def test_the_interval_of_one_model_is_over_items_and_stays_a_share() -> None:
    found = interval_of([1.0] * 30 + [0.0] * 10)
    assert found and found.value == 0.75
    half = 2.0227 * np.std([1.0] * 30 + [0.0] * 10, ddof=1) / np.sqrt(40)
    assert (found.low, found.high) == pytest.approx((0.75 - half, 0.75 + half), abs=1e-4)
    nearly_all = interval_of([1.0] * 39 + [0.0])
    assert nearly_all and nearly_all.high == 1.0
    assert interval_of([1.0] * 9) is None and interval_of([1.0] * 20 + [None]) is None


def test_more_pairs_widen_an_interval() -> None:
    draw = np.random.default_rng(1)
    one, other = Scores(draw.random((3, 50)) + 0.2), Scores(draw.random((3, 50)))
    alone, among = (difference(one, other, n) for n in (1, 6))
    assert alone.value == among.value and among.low < alone.low < alone.high < among.high


def add_tasks(run_dir: Path, share: float, seed: int, **changes: Any) -> None:
    """Write an evaluation of stage language on 200 items, of which about `share` are right."""
    known = np.random.default_rng(7).random(200)  # how hard an item is
    hits = (known + np.random.default_rng(seed).normal(0, 0.02, 200) < share).astype(float).tolist()
    metrics = {"acc": {"value": float(np.mean(hits)), "higher_is_better": True, "items": hits}}
    task = {"lm_eval": "0.4", "n": 200, "items_sha256": "ab" * 32, "metrics": metrics} | changes
    stage = {"weights_sha256": "0" * 64, "corpus": "language", "test": {}, "references": {}, "samples": []}
    content = {"format_version": 1, "settings": {}, "stages": {"language": stage | {"tasks": {"story_grammar": task}}}}
    (run_dir / "evaluation.json").write_text(json.dumps(content))


def lines_and_table(sweep: SweepBuilder) -> tuple[list[str], list[list[str]]]:
    runs = load_runs(sweep.sweep)
    tables = [each.table for each in further_tables(runs) if each.title == "Tasks of lm-eval"]
    return [line for line in verdict_lines(runs) if "task" in line.lower()], tables[0].rows if tables else []


def test_a_report_has_a_verdict_and_a_table(tmp_path: Path) -> None:
    sweep = SweepBuilder(tmp_path)
    for name, share in {"dense": 0.8, "mamba": 0.55, "moe": 0.79}.items():
        for seed in range(3):
            add_tasks(sweep.add(name, seed), share, seed + 10 * len(name))
    lines, rows = lines_and_table(sweep)
    assert (
        len(lines) == 2 and "nano: language: task story_grammar (acc): no significant best; best mean dense" in lines[0]
    )
    assert "significantly worse mamba by 0.2" in lines[0] and "not significantly worse moe by 0.0" in lines[0]
    assert "(200 items)" in lines[0] and "95% over all 3 pairs of the tasks (Bonferroni)" in lines[1]
    assert [row[0] for row in rows] == ["dense", "moe", "mamba"] and rows[0][-1] == NOTHING
    assert float(rows[2][5]) == pytest.approx(0.55, abs=0.08) and float(rows[2][-1].split()[0]) > 0.1


def test_other_items_or_too_few_seeds_are_not_compared(tmp_path: Path) -> None:
    sweep = SweepBuilder(tmp_path)
    for name in ("dense", "mamba"):
        for seed in range(2):
            add_tasks(sweep.add(name, seed), 0.7, seed)
    lines, rows = lines_and_table(sweep)
    assert lines == [] and {row[-1] for row in rows} == {NOTHING}, "two seeds give scores alone"
    other = SweepBuilder(tmp_path / "other")
    for name in ("dense", "mamba"):
        for seed in range(3):
            add_tasks(other.add(name, seed), 0.7, seed, items_sha256=name)
    assert lines_and_table(other) == ([], [])
