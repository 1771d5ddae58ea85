"""Results are computed once for each report, and never kept for the next one."""

import json

import pytest

from src.reporting import load_runs, write_report
from src.reporting.data.metrics_file import read_metrics
from src.reporting.data.shared_results import share_results, shared
from src.reporting.plots import charts, training
from src.reporting.plots.charts import build_charts
from src.reporting.plots.training import loss_chart


def test_equal_texts_and_the_same_objects_are_computed_once() -> None:
    calls: list[object] = []

    @shared
    def count(value: object, times: int = 1) -> int:
        calls.append(value)
        return len(calls)

    assert [count("a"), count("a")] == [1, 2]  # outside of a report
    with share_results():
        items = ["x"]
        assert [count("a"), count("a"), count(items), count(["x"]), count(items), count("a", times=2)] == [
            3, 3, 4, 5, 4, 6,
        ]  # fmt: skip
    with share_results():
        assert count("a") == 7


def test_a_second_report_reads_the_files_again(four) -> None:
    write_report(four.sweep)
    path = next(four.root.glob("runs/dense-*/summary.json"))
    content = json.loads(path.read_text())
    content["stages"]["code"]["val_bits_per_byte"] = 0.123
    path.write_text(json.dumps(content))
    page = write_report(four.sweep)
    assert "0.123" in page.with_name("summary.md").read_text()


def test_charts_of_many_runs_are_limited_and_say_so(builder, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        for name in ("dense", "moe"):
            builder.add(name, run=f"{name}-{index}", contract={"tokenizer_hash": str(index)})
    runs = load_runs(builder.sweep)
    metrics = read_metrics(runs)
    whole = {chart.id: chart for chart in build_charts(runs, metrics, builder.sweep)}
    assert len(whole["curves"].panels) == 6 and "Only the first" not in whole["curves"].note
    monkeypatch.setattr(charts, "MANY_RUNS", 5)
    monkeypatch.setattr(charts, "MAX_PANELS", 4)
    limited = {chart.id: chart for chart in build_charts(runs, metrics, builder.sweep)}
    assert limited["curves"].panels == whole["curves"].panels[:4]
    assert "Only the first 4 of 6 panels are drawn" in limited["curves"].note


def test_of_many_unfinished_runs_the_first_are_drawn(builder, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        builder.add("dense", seed, status="failed")
    runs = load_runs(builder.sweep)
    chart = loss_chart(runs, read_metrics(runs))
    assert sum(trace.architecture == "dense" for trace in chart.panels[0].traces) == 4
    monkeypatch.setattr(training, "MAX_UNFINISHED", 3)
    chart = loss_chart(runs, read_metrics(runs))
    assert sum(trace.architecture == "dense" for trace in chart.panels[0].traces) == 3
    assert "Of 4 unfinished runs, the first 3 are drawn." in chart.note
