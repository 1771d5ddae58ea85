"""Build the charts of a report from a directory of runs, in the order of the page."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from src.reporting.data.artifacts import PROBES, Search, load_searches
from src.reporting.data.metric import BITS
from src.reporting.data.problems import Problems
from src.reporting.plots.benchmark import benchmark_charts, newest_benchmark
from src.reporting.plots.chart import Axis, Chart, Panel, Trace, trace_of
from src.reporting.plots.context import beyond_chart, position_chart, probe_chart, recall_chart, task_charts
from src.reporting.plots.cost import cost_chart
from src.reporting.plots.ladder import ladder_chart
from src.reporting.plots.training import expert_chart, loss_chart, speed_chart
from src.reporting.plots.verdict import verdict_chart
from src.reporting.statistics.scaling_laws import AXES as SCALING_AXES
from src.reporting.statistics.scaling_laws import fit_laws

MANY_RUNS = 200
"""With more runs, charts are limited to MAX_PANELS."""
MAX_PANELS = 8
"""Panels of a chart of many runs: each takes 0.3 s in an image file."""


def build_charts(
    runs: pd.DataFrame,
    metrics: pd.DataFrame,
    directory: Path,
    problems: Problems | None = None,
    margin: float | None = None,
) -> list[Chart]:
    """Build every chart that has something to say.

    problems: takes note of charts that fail, instead of an exception, and of those that say nothing. margin: as for
    `verdict_chart`.
    """
    builders: dict[str, Callable[[], list[Chart]]] = {
        "a ladder": lambda: [ladder_chart(runs)],  # what its runs are for
        "verdict": lambda: [verdict_chart(runs, margin)],
        "quality against cost": lambda: [cost_chart(runs)],
        "curves": lambda: [loss_chart(runs, metrics)],
        "learning rates": lambda: [learning_rate_chart(load_searches(directory))],
        "positions": lambda: [position_chart(runs), beyond_chart(runs)],
        "accuracy": lambda: task_charts(runs),
        "recall": lambda: [recall_chart(runs), *(probe_chart(runs, name) for name in PROBES)],
        "experts": lambda: [expert_chart(runs, metrics)],
        "speed": lambda: [speed_chart(runs)],
        "benchmark": lambda: benchmark_charts(newest_benchmark(directory)),
    }
    found: list[Chart] = []
    for name, build in builders.items():
        found += build() if problems is None else problems.attempt(f"chart of {name}", build, [])
    if problems is not None:
        problems.lines += [f"{chart.title}: {chart.says_nothing}" for chart in found if chart.says_nothing]
    shown = [chart for chart in found if not chart.is_empty and not chart.says_nothing]
    return [_limit_panels(chart) for chart in shown] if len(runs) > MANY_RUNS else shown


def _limit_panels(chart: Chart) -> Chart:
    """Leave out all but the first panels of a chart, and say so in its note."""
    panels = [panel for panel in chart.panels if panel.traces]
    if len(panels) <= MAX_PANELS:
        return chart
    note = f"{chart.note} Only the first {MAX_PANELS} of {len(panels)} panels are drawn; summary.csv has every run."
    return replace(chart, panels=panels[:MAX_PANELS], note=note.strip())


def learning_rate_chart(searches: Sequence[Search]) -> Chart:
    """Chart validation loss against learning rate: a panel for each search, the chosen rates ringed."""
    panels: list[Panel] = []
    unit = " or ".join(dict.fromkeys(search.unit for search in searches)) or BITS.unit
    for search in searches:
        panel = Panel(search.size)
        chosen: list[tuple[float, float]] = []
        for name in search.tried:
            if points := search.points(name):
                rates, losses = zip(*points, strict=True)
                trace = trace_of(name)
                trace.add_seeds("", {"": [*rates]}, [[*losses]])
                panel.traces.append(trace)
                chosen.append(min(points, key=lambda point: point[1]))
        if chosen:
            rates, losses = zip(*chosen, strict=True)
            panel.traces.append(Trace("chosen", marker="ring", dash="", x={"": {"": [*rates]}}, y={"": [*losses]}))
        panels.append(panel)
    return Chart(
        "learning-rates",
        "Sensitivity to the learning rate",
        f"Validation {unit} against the peak learning rate, by python -m src.tune on seeds that no comparison "
        "uses. Rates that diverged are missing.",
        {"": Axis("peak learning rate", is_log=True)},
        {"": Axis(f"validation {unit}")},
        {"learning_rates": ""},
        panels,
        columns=len(panels) or 1,
        is_read_at_minimum=True,
    )


def scaling_chart(runs: pd.DataFrame, axis: str = "active_non_embedding_params", stage: str | None = None) -> Chart:
    """Chart loss against size or training FLOPs (a key of `scaling_laws.AXES`), with the fitted laws."""
    panel = Panel("")
    for law in fit_laws(runs, axis, stage):
        sizes, line = trace_of(law.architecture, dash=""), trace_of(law.architecture)
        sizes.add_seeds("", {"": law.x}, [law.y])
        ends = [min(law.x), max(law.x)]
        line.add_seeds("", {"": ends}, [[law.at(end) for end in ends]])
        panel.traces += [sizes, line]
    x = {"": Axis(SCALING_AXES[axis], is_log=True)}
    return Chart("scaling", "Scaling", "Points: sizes.", x, {"": Axis("bits per byte", is_log=True)}, {}, [panel])
