"""The interactive charts of a report, as plain values that the page's script draws with Plotly.

A chart has panels, a panel has traces, a trace is the mean over the seeds of an architecture with a band from the
lowest to the highest. Where a chart offers several axes, each trace has its values for all of them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from src.reporting.data.artifacts import PROBES, load_searches
from src.reporting.data.json_values import Record
from src.reporting.data.problems import Problems
from src.reporting.data.runs import reference_losses, stage_names, to_records
from src.reporting.plots.benchmark import PHASES, newest_benchmark
from src.reporting.plots.context import Gathered, band_of, gather_context, where_many
from src.reporting.plots.figures import BALANCE, layer_columns
from src.reporting.plots.style import style_of
from src.reporting.statistics.verdicts import ranking_groups

Chart = dict[str, Any]
"""id, title, note, panels; x and y: name -> label of what can be chosen; log: which axes are logarithmic."""
Trace = dict[str, Any]
"""name, architecture, colour, dash; x and y: name -> numbers; low and high likewise, for a band."""

FLOOR_COLOUR = "#8a8f98"


def build_charts(
    runs: pd.DataFrame, metrics: pd.DataFrame, directory: Path, problems: Problems | None = None
) -> list[Chart]:
    """Build every chart for which there is something to draw, in the order of the page.

    problems: takes note of charts that fail, instead of an exception.
    """
    builders: dict[str, Callable[[], list[Chart]]] = {
        "curves": lambda: [_curves(runs, metrics)],
        "learning rates": lambda: [_learning_rates(directory)],
        "context": lambda: _contexts(runs),
        "experts": lambda: [_experts(runs, metrics)],
        "speed": lambda: [_speeds(runs)],
        "benchmark": lambda: _benchmark(directory),
    }
    found: list[Chart] = []
    for name, build in builders.items():
        found += build() if problems is None else problems.attempt(f"charts of {name}", build, [])
    return [chart for chart in found if chart["panels"]]


def _chart(name: str, title: str, note: str, x: Any, y: Any, log: str = "", **more: Any) -> Chart:
    x, y = ({"": label} if isinstance(label, str) else label for label in (x, y))
    return {"id": name, "title": title, "note": note, "x": x, "y": y, "log": log, "panels": [], **more}


def _trace(architecture: str, name: str | None = None, dash: str = "solid", colour: str | None = None) -> Trace:
    colour = style_of(architecture)[0] if colour is None else colour
    trace: Trace = {"name": name or architecture, "architecture": architecture, "colour": colour, "dash": dash}
    return trace | {"x": {}, "y": {}, "low": {}, "high": {}}


def _reference(name: str, level: float) -> Trace:
    return _trace("", name, "dash", FLOOR_COLOUR) | {"level": _short(level)}


def _short(value: float) -> float | None:
    """Five digits: more cannot be seen."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _shorten(values: Iterable[float]) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _places(runs: pd.DataFrame) -> list[tuple[str, str, list[Record]]]:
    """Return (title of a group, architecture, its runs), unfinished ones under a name of their own."""
    records = to_records(runs)
    groups = ranking_groups(records)
    found = [(group.title, name, members) for group in groups for name, members in group.by_architecture().items()]
    for record in records:
        if record["status"] != "done":
            titles = [group.title for group in groups if group.size == record["size"]]
            title = titles[0] if len(titles) == 1 else str(record["size"])
            found.append((title, str(record["architecture"]), [record]))
    return found


def _kept(panels: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [panel for panel in panels.values() if any("level" not in trace for trace in panel["traces"])]


def _curves(runs: pd.DataFrame, metrics: pd.DataFrame) -> Chart:
    chart = _chart(
        "curves",
        "Learning",
        "Validation text, the mean over seeds; band: from the lowest seed to the highest.",
        {
            "tokens": "tokens in the stage",
            "flops": "training FLOPs in the stage",
            "wall_time_s": "seconds in the stage",
        },
        {
            "val/loss": "validation loss (nats per token)",
            "val/bits_per_byte": "validation bits per byte",
            "train/loss": "training loss (nats per token)",
        },
        log="x",
    )
    stages = list(dict.fromkeys([*stage_names(runs), *metrics["stage"].dropna()]))
    places = _places(runs)
    points = {str(run): rows for run, rows in metrics.groupby("run", sort=False)}
    titles = dict.fromkeys(f"{stage}, {title}" for title, _, _ in places for stage in stages)
    panels: dict[str, dict[str, Any]] = {title: {"title": title, "traces": []} for title in titles}
    for title, architecture, members in places:
        for stage in stages:
            traces: list[Trace] = panels[f"{stage}, {title}"]["traces"]
            rows = [points[run["run"]] for run in members if run["run"] in points]
            rows = [each[each["stage"] == stage] for each in rows]
            name = architecture if members[0]["status"] == "done" else f"{architecture} ({members[0]['status']})"
            trace = _trace(architecture, name, "solid" if members[0]["status"] == "done" else "dot")
            for metric in chart["y"]:
                _add_seeds(trace, metric, list(chart["x"]), rows)
            if any(trace["y"].values()):
                traces.append(trace)
            known = {trace["name"] for trace in traces}
            for name, (loss, _) in reference_losses(members[0], stage).items():
                if name not in known:
                    traces.append(_reference(name, loss) | {"only": ["val/loss", "train/loss"]})
    chart["panels"] = _kept(panels)
    return chart


def _add_seeds(trace: Trace, metric: str, axes: list[str], seeds: Sequence[Any]) -> None:
    """Add the mean, the least and the greatest of a metric at every step that all seeds have, after the first."""
    seeds = [rows[rows[metric].notna() & (rows["step"] > 0)] for rows in seeds if metric in rows.columns]
    seeds = [rows.drop_duplicates("step").set_index("step") for rows in seeds if len(rows)]
    if not seeds:
        return
    steps = sorted(set[Any].intersection(*(set(rows.index) for rows in seeds)))

    def stack(column: str) -> "np.ndarray[Any, Any]":
        return np.array([rows[column].reindex(steps) for rows in seeds], dtype=float)

    values = stack(metric)
    trace["y"][metric] = _shorten(values.mean(axis=0))
    trace["x"][metric] = {axis: _shorten(stack(axis).mean(axis=0)) for axis in axes}
    if len(seeds) > 1:
        trace["low"][metric], trace["high"][metric] = _shorten(values.min(axis=0)), _shorten(values.max(axis=0))


def _learning_rates(directory: Path) -> Chart:
    chart = _chart(
        "learning-rates",
        "Sensitivity to the learning rate",
        "By python -m src.tune, on seeds that no comparison uses; what diverged is missing.",
        "peak learning rate",
        "validation bits per byte",
        log="x",
        markers=True,
    )
    for search in load_searches(directory):
        traces: list[Trace] = []
        for name in search.tried:
            if points := search.points(name):
                rates, losses = zip(*points, strict=True)
                traces.append(_simple(name, rates, losses))
        if traces:
            chart["panels"].append({"title": search.size, "traces": traces})
    return chart


def _simple(
    architecture: str, x: Sequence[float], y: Sequence[float], name: str | None = None, dash: str = "solid"
) -> Trace:
    return _trace(architecture, name, dash) | {"x": {"": {"": _shorten(x)}}, "y": {"": _shorten(y)}}


def _contexts(runs: pd.DataFrame) -> list[Chart]:
    """Charts of what was evaluated by position and distance."""
    trained = sorted({run["contract"].get("training.seq_len") or 0 for run in to_records(runs)} - {0})
    position, distance = "position in the window (tokens seen)", "distance to the mention (tokens)"
    kinds = [
        ("positions", "Loss by position", "loss", position, "loss (nats per token)", ""),
        (
            "beyond", "Loss past the training context", "loss", position, "loss (nats per token)",
            f"Windows longer than the training context of {', '.join(map(str, trained))} tokens.",
        ),
        (
            "recall", "Recall by distance", "accuracy", distance, "names recalled whole",
            "Names about which the generated text leaves no choice.",
        ),
        *(
            (f"probe/{name}", f"{name.capitalize()} by distance", "gain", distance, "nats saved a token", text)
            for name, text in PROBES.items()
        ),
    ]  # fmt: skip
    found = gather_context(runs, *(measure for measure, *_ in kinds))
    return [_context(found[kind[0]], *kind) for kind in kinds]


def _context(found: Gathered, measure: str, title: str, value: str, x: str, y: str, note: str) -> Chart:
    chart = _chart(measure.replace("/", "-"), title, note, x, y, log="x", markers=True)
    for group, stages in found.items():
        for stage, members in stages.items():
            traces: list[Trace] = []
            for architecture, seeds in members.items():
                own = [seed[measure] for seed in seeds]
                traces.append(_band(architecture, list(map(where_many, own)) if measure == "recall" else own, value))
                if "floor" in own[0] and not any(trace["name"] == "floor" for trace in traces):
                    floor = _simple("", own[0].get("to", []), own[0]["floor"], "floor", "dash")
                    traces.append(floor | {"colour": FLOOR_COLOUR})
                    chart["note"] = "Dashed: the exact floor."
            chart["panels"].append({"title": f"{stage}, {group}", "traces": traces})
    return chart


def _band(architecture: str, seeds: Sequence[dict[str, list[float]]], name: str) -> Trace:
    band = band_of(seeds, name)
    trace = _simple(architecture, band.x, band.mean)
    if len(seeds) > 1:
        trace |= {"low": {"": _shorten(band.low)}, "high": {"": _shorten(band.high)}}
    return trace


def _experts(runs: pd.DataFrame, metrics: pd.DataFrame) -> Chart:
    chart = _chart(
        "experts",
        "Balance of experts",
        "Mean over the layers of a run; band: from the lowest layer to the highest.",
        "tokens in the stage",
        BALANCE,
    )
    points: dict[Any, pd.DataFrame] = dict(iter(metrics.groupby(["run", "stage"], sort=False)))
    for stage in dict.fromkeys(metrics["stage"].dropna()):
        traces: list[Trace] = []
        for record in to_records(runs):
            rows = points.get((record["run"], stage), metrics[:0])
            several = f" seed {record['seed']}" if record["seed"] is not None else ""
            trace = _trace(str(record["architecture"]), f"{record['architecture']}{several}")
            for measure in chart["y"]:
                columns = layer_columns(metrics, measure)
                layers: np.ndarray[Any, Any] = np.array(rows[columns], dtype=float)
                tokens: np.ndarray[Any, Any] = np.array(rows["tokens"], dtype=float)
                known = np.isfinite(layers).any(axis=1) if columns else np.zeros(tokens.shape, dtype=bool)
                if known.any():
                    trace["x"][measure] = {"": _shorten(tokens[known])}
                    trace["y"][measure] = _shorten(np.nanmean(layers[known], axis=1))
                    trace["low"][measure] = _shorten(np.nanmin(layers[known], axis=1))
                    trace["high"][measure] = _shorten(np.nanmax(layers[known], axis=1))
            if trace["y"]:
                traces.append(trace)
        if traces:
            chart["panels"].append({"title": str(stage), "traces": traces})
    return chart


def _speeds(runs: pd.DataFrame) -> Chart:
    kinds = {"tokens_per_second": "tokens per second", "peak_memory_bytes": "peak memory (GB)"}
    note = "Of training, the mean over seeds. Nothing can be said from it where jobs shared the machine."
    chart = _chart("speed", "Speed and memory of training", note, "", kinds, bars=True)
    for group in ranking_groups(to_records(runs)):
        traces: list[Trace] = []
        for architecture, members in group.by_architecture().items():
            trace = _trace(architecture)
            for kind in kinds:
                values = [run[kind] for run in members if run[kind] is not None]
                if values:
                    scale = 1e9 if kind.endswith("bytes") else 1
                    trace["x"][kind], trace["y"][kind] = {"": [architecture]}, _shorten([fmean(values) / scale])
            if trace["y"]:
                traces.append(trace)
        if traces:
            chart["panels"].append({"title": group.title, "traces": traces})
    return chart


def _benchmark(directory: Path) -> list[Chart]:
    points = newest_benchmark(directory)
    note = "By python -m src.benchmark (its newest, beside these runs). Dashed: other libraries at equal shape."
    kinds: list[tuple[str, str, str, Callable[[Any], Any]]] = [
        ("tokens_per_second", "Speed against context length", "tokens per second", lambda value: value),
        ("peak_bytes", "Memory against context length", "memory (GB)", lambda value: value / 1e9),
    ]
    charts: list[Chart] = []
    for column, title, label, scale in kinds:
        chart = _chart(f"benchmark-{column}", title, note, "context (tokens)", label, log="xy", markers=True)
        for phase, name in PHASES.items() if points is not None else ():
            assert points is not None
            traces: list[Trace] = []
            rows = points[(points["phase"] == phase) & points[column].notna()]
            for (architecture, model), own in rows.groupby(["architecture", "model"], sort=False):
                ours = model == "ours"
                label_of = str(architecture) if ours else f"{architecture}: {model}"
                dash = "solid" if ours else "dash"
                x, y = list(own["context_len"]), list(scale(own[column]))
                traces.append(_simple(str(architecture), x, y, label_of, dash))
            if traces:
                chart["panels"].append({"title": name, "traces": traces})
        charts.append(chart)
    return charts
