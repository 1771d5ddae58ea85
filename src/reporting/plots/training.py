"""The charts of training: loss, balance of experts, speed and memory.

Runs are averaged over seeds only within a group of comparable runs. Unfinished runs are drawn dotted, each by itself.
"""

import math
import re
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from src.config.formatting import count_of, show_bytes
from src.reporting.data.json_values import Record
from src.reporting.data.runs import reference_losses, stage_names, to_records
from src.reporting.plots.chart import Axis, Chart, Panel, Trace, Values, add_reference, panel_title, trace_of
from src.reporting.statistics.groups import ranking_groups

LEARNED = {
    "val/loss": Axis("validation loss (nats per token)"),
    "val/bits_per_byte": Axis("validation bits per byte"),
    "val/accuracy": Axis("validation accuracy", limits=(0, 1.04)),
    "train/loss": Axis("training loss (nats per token)"),
}
"""What a run learns, by metric; a run on text has no accuracy, and one on a task no bits per byte."""
EXPERT_BALANCE = {
    "load_entropy": Axis("load entropy (1: even)", limits=(0, 1.04)),
    "max_violation": Axis("max violation (0: even)", limits=(0, None)),
    "dead_experts": Axis("dead experts (in a layer)", limits=(0, None)),
    "router_z": Axis("router z", limits=(0, None)),
}
"""The measures of each layer of experts."""
MAX_UNFINISHED = 50
"""Unfinished runs that are drawn, each by itself."""


def loss_chart(runs: pd.DataFrame, metrics: pd.DataFrame) -> Chart:
    """Chart loss against tokens, FLOPs and time: a panel for each stage of each group."""
    unit, seconds = time_unit(float(metrics["wall_time_s"].max()))
    metrics = metrics.assign(wall_time_s=metrics["wall_time_s"] / seconds)
    x = {
        "tokens": Axis("tokens in the stage", is_log=True),
        "flops": Axis("training FLOPs in the stage", is_log=True),
        "wall_time_s": Axis(f"wall-clock time in the stage ({unit})", limits=(0, None)),
    }
    why = _speed_problem(to_records(runs))
    if why:
        del x["wall_time_s"]
    files = {"tokens": "loss_vs_tokens", "flops": "loss_vs_flops", "wall_time_s": "loss_vs_time"}
    chart = Chart(
        "curves",
        "Loss while training",
        "Validation loss, the mean over seeds, with a band from the lowest seed to the highest; faint: training loss. "
        "Learning rates reach their end at the budget, so a point before the end of a curve is a run that is not "
        "finished: only runs made for a budget in FLOPs or time are ranked by it."
        + (f" The time is left out: {why}." if why else "")
        + _unfinished_note(runs),
        x,
        {metric: axis for metric, axis in LEARNED.items() if metric in metrics.columns or metric == "val/loss"},
        {files[axis]: axis for axis in x},
        [],
        file_y=("val/loss",),
        has_end_labels=True,
        behind={"val/loss": "train/loss"},
        columns=len(_stages(runs, metrics)) or 1,
    )
    # Rows become plain lists once: with pandas each line would take 20 ms.
    columns = ["step", *chart.x, *(metric for metric in chart.y if metric in metrics.columns)]
    for panel, stage, lines in _panels(runs, metrics):
        chart.panels.append(panel)
        for line, rows in lines:
            trace = line.trace()
            seeds = [each[columns].to_numpy(dtype=float).tolist() for each in rows]
            for place, metric in enumerate(columns):
                if metric in chart.y:
                    _add_metric(trace, metric, place, list(chart.x), seeds)
            if trace.y:
                panel.traces.append(trace)
                for name, (loss, _) in reference_losses(line.runs[0], stage).items():
                    add_reference(panel, name, loss, ["val/loss", "train/loss"])
    return chart


def _unfinished_note(runs: pd.DataFrame) -> str:
    n = int((runs["status"] != "done").sum())
    return f" Of {n} unfinished runs, the first {MAX_UNFINISHED} are drawn." if n > MAX_UNFINISHED else ""


def expert_chart(runs: pd.DataFrame, metrics: pd.DataFrame) -> Chart:
    """Chart how evenly experts are used, against tokens: a panel for each stage of each group.

    A line is the mean over seeds and layers. Its band goes from the lowest layer to the highest, so a layer that
    collapses widens it, however many others are even.
    """
    panels: list[Panel] = []
    for panel, _, lines in _panels(runs, _with_layers(metrics)):
        panels.append(panel)
        for line, rows in lines:
            trace = line.trace()
            for measure in EXPERT_BALANCE:
                _add_layers(trace, measure, rows)
            if trace.y:
                panel.traces.append(trace)
    return Chart(
        "experts",
        "Balance of experts",
        "How evenly the experts are used: the line is the mean over layers and seeds, the band goes from the lowest "
        "layer to the highest.",
        {"": Axis("tokens in the stage", is_log=True)},
        EXPERT_BALANCE,
        {"expert_balance": ""},
        panels,
    )


def speed_chart(runs: pd.DataFrame) -> Chart:
    """Chart training speed and peak memory of the finished runs: bars for means, dots for runs."""
    kinds: dict[str, Callable[[float], str]] = {"tokens_per_second": "{:,.0f}".format, "peak_memory_bytes": show_bytes}
    records = [record for record in to_records(runs) if record["tokens_per_second"] is not None]
    devices = list(dict.fromkeys(_device(record) for record in records))
    warning = " (different: not comparable)" if len(devices) > 1 else ""
    groups, why = ranking_groups(records), _speed_problem(records)
    y = {
        "tokens_per_second": Axis("training speed (tokens per second)"),
        "peak_memory_bytes": Axis("peak memory (bytes)"),
    }
    if why:
        del y["tokens_per_second"], kinds["tokens_per_second"]
    panels: list[Panel] = []
    for group in groups:
        panel = Panel(group.title if len(groups) > 1 else "")
        panels.append(panel)
        for architecture, members in group.by_architecture().items():
            trace = trace_of(architecture)
            panel.traces.append(trace)
            for kind, show in kinds.items():
                values = [float(run[kind]) for run in members if run[kind] is not None]
                trace.y[kind] = [fmean(values) if values else 0.0]
                trace.seeds[kind] = values
                trace.text[kind] = show(fmean(values)) if values else "not measured"
    return Chart(
        "speed",
        f"{'Memory' if why else 'Speed and memory'} on {' / '.join(devices)}{warning}",
        "Of training: bars are means over seeds." + (f" The speed is left out: {why}." if why else ""),
        {"": Axis("")},
        y,
        {"speed": ""},
        panels,
        kind="bars",
    )


def _speed_problem(records: Sequence[Record]) -> str | None:
    """Return why speed and time of some of these runs say nothing about their architectures, or None."""
    return next((why for group in ranking_groups(records) if (why := group.speed_problem())), None)


def time_unit(longest: float) -> tuple[str, float]:
    """Choose the unit of a time axis: its name and its seconds."""
    units = [("s", 1.0, 180.0), ("min", 60.0, 3 * 3600.0), ("h", 3600.0, float("inf"))]
    return next(((name, seconds) for name, seconds, limit in units if not longest > limit))


def layer_columns(metrics: pd.DataFrame, measure: str) -> list[str]:
    """Name the columns of a measure of EXPERT_BALANCE, one for each layer of experts."""
    return [str(column) for column in metrics.columns if re.fullmatch(rf"moe/layer_\d+/{measure}", str(column))]


class _Line(NamedTuple):
    """The runs that one line shows: the seeds of an architecture in a group, or an unfinished run by itself."""

    group: str
    architecture: str
    runs: list[Record]

    def trace(self) -> Trace:
        status = self.runs[0]["status"]
        if status == "done":
            return trace_of(self.architecture)
        return trace_of(self.architecture, f"{self.architecture} ({status})", "dot")


def _panels(
    runs: pd.DataFrame, metrics: pd.DataFrame
) -> list[tuple[Panel, str, list[tuple[_Line, list[pd.DataFrame]]]]]:
    """Return a panel for each stage of each group, its stage, and its lines with the metrics of their runs."""
    records = to_records(runs)
    groups = ranking_groups(records)
    lines = [_Line(group.title, *item) for group in groups for item in group.by_architecture().items()]
    unfinished = [record for record in records if record["status"] != "done"]
    for record in unfinished[:MAX_UNFINISHED]:
        titles = [group.title for group in groups if group.size == record["size"]]
        title = titles[0] if len(titles) == 1 else str(record["size"])
        lines.append(_Line(title, str(record["architecture"]), [record]))
    rows: dict[Any, pd.DataFrame] = dict(iter(metrics.groupby(["run", "stage"], sort=False)))
    titles = list(dict.fromkeys(line.group for line in lines))
    return [
        (
            Panel(panel_title(stage, title, titles)),
            stage,
            [
                (line, [rows[run["run"], stage] for run in line.runs if (run["run"], stage) in rows])
                for line in lines
                if line.group == title
            ],
        )
        for title in titles
        for stage in _stages(runs, metrics)
    ]


def _stages(runs: pd.DataFrame, metrics: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys([*stage_names(runs), *metrics["stage"].dropna()]))


def _add_metric(trace: Trace, metric: str, place: int, axes: Sequence[str], seeds: Sequence[list[Values]]) -> None:
    """Add a metric at every step that all seeds have, after the first: a log axis has no place for 0 tokens.

    place: of the metric in the rows of the seeds, which begin with the step and the values of `axes`.
    """
    found = [_rows_by_step(rows, place) for rows in seeds]
    found = [rows for rows in found if rows]
    if not found:
        return
    steps = sorted(set[float].intersection(*map(set, found)))

    def at_steps(column: int) -> list[Values]:
        return [[rows[step][column] for step in steps] for rows in found]

    x = {axis: [fmean(each) for each in zip(*at_steps(index), strict=True)] for index, axis in enumerate(axes, start=1)}
    trace.add_seeds(metric, x, at_steps(place))


def _rows_by_step(rows: list[Values], place: int) -> dict[float, Values]:
    """Return the first row of each step after 0 that has a value at `place`."""
    found: dict[float, Values] = {}
    for row in rows:
        if row[0] > 0 and not math.isnan(row[place]):
            found.setdefault(row[0], row)
    return found


def _with_layers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Add the mean, lowest and highest layer of each measure of experts as columns."""
    added: dict[str, Any] = {}
    for measure in EXPERT_BALANCE:
        if columns := layer_columns(metrics, measure):
            layers = metrics[columns].astype(float)
            own = {"mean": layers.mean(axis=1), "low": layers.min(axis=1), "high": layers.max(axis=1)}
            added |= {f"{measure}/{name}": values for name, values in own.items()}
    return metrics[["run", "stage", "step", "tokens"]].assign(**added)


def _add_layers(trace: Trace, measure: str, seeds: Sequence[pd.DataFrame]) -> None:
    """Add a measure of experts at every step that all seeds have."""
    names = [f"{measure}/{name}" for name in ("mean", "low", "high")]
    if not seeds or names[0] not in seeds[0].columns:
        return
    steps: dict[float, list[Values]] = {}
    for rows in seeds:
        for step, *values in rows[["step", "tokens", *names]].to_numpy(dtype=float).tolist():
            if not any(map(math.isnan, values)):
                steps.setdefault(step, []).append(values)
    found = [[*zip(*steps[step], strict=True)] for step in sorted(steps) if len(steps[step]) == len(seeds)]
    if found:
        tokens, means, lows, highs = zip(*found, strict=True)
        trace.x[measure] = {"": [*map(fmean, tokens)]}
        trace.y[measure] = [*map(fmean, means)]
        trace.low[measure], trace.high[measure] = [*map(min, lows)], [*map(max, highs)]


def _device(record: Record) -> str:
    threads = record["threads"]
    return str(record["device"] or "unknown device") + (f", {count_of(threads, 'thread')}" if threads else "")
