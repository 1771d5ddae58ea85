"""The charts of how a model uses its context: loss by position, recall by distance, probes by distance.

A panel is a stage of a group of comparable runs. A line is the mean over the seeds of an architecture, with a band
from the lowest seed to the highest, or the interval of a share.
"""

import math
from collections.abc import Callable
from statistics import fmean

import pandas as pd

from src.reporting.data.artifacts import PROBES, load_context
from src.reporting.data.runs import to_records
from src.reporting.plots.chart import Axis, Chart, Panel, Trace, Values, add_reference, panel_title, trace_of
from src.reporting.statistics.groups import ranking_groups
from src.reporting.statistics.noise import is_noise
from src.reporting.statistics.shares import share_interval

MIN_RECALLS = 10
"""Ranges of distance with fewer recalls are left out, because their share of hits is chance."""

MIN_GAIN = 0.05
"""Nats for each token; a smaller saving than 5% of the perplexity is no ability, however significant."""

Measures = dict[str, dict[str, Values]]
"""What a run measured in a stage (see `load_context`): measure -> name -> a number for each range."""


def position_chart(runs: pd.DataFrame) -> Chart:
    """Chart validation loss by position in the window, with the floor of the same tokens where text is generated."""

    def add_floor(panel: Panel, trace: Trace, seeds: list[Measures]) -> None:
        positions = seeds[0]["positions"]
        if "floor" in positions and all(other.architecture for other in panel.traces):
            floor = Trace("floor of the same tokens", marker="", dash="dash")
            floor.add_seeds("", {"": positions.get("to", [])}, [positions["floor"]])
            panel.traces.append(floor)

    note = (
        "Loss by position in the window. The floor, of generated text, knows each document from its start, also what "
        "lies before the window, so it cannot be reached at the first positions. Bands: seeds."
    )
    return _chart(runs, "positions", "loss", "Loss by position", "loss_by_position", note, add_floor)


def beyond_chart(runs: pd.DataFrame) -> Chart:
    """Chart test loss by position in windows longer than the training context, whose end is marked."""
    note = "Loss by position in windows longer than the training context. Bands: seeds."
    chart = _chart(runs, "beyond", "loss", "Loss past the training context", "loss_beyond", note)
    chart.marks = {"training context": _training_lengths(runs)}
    return chart


def recall_chart(runs: pd.DataFrame) -> Chart:
    """Chart the share of names that are recalled, by the distance to their last mention."""

    def add_hidden(panel: Panel, trace: Trace, seeds: list[Measures]) -> None:
        guesses = [value for measures in seeds for value in measures["hidden"].get("accuracy", [])]
        if guesses:
            hidden = trace_of(trace.architecture, "mention out of the window", "dot")
            hidden.level = fmean(guesses)
            panel.traces.append(hidden)

    note = (
        "Recall of names that the generated text determines, by distance to their last mention: the share of them of "
        "which every token is the likeliest. Dotted: that mention is out of the window. Ranges with fewer than "
        f"{MIN_RECALLS} names are left out. Bands: 95% intervals (Wilson's) over names and seeds."
    )
    return _chart(runs, "recall", "accuracy", "Recall by distance", "recall_by_distance", note, add_hidden)


def probe_chart(runs: pd.DataFrame, probe: str) -> Chart:
    """Chart how many nats a mention saves, by its distance: `probe` is one of PROBES."""

    def add_zero(panel: Panel, trace: Trace, seeds: list[Measures]) -> None:
        add_reference(panel, "no benefit", 0.0)

    title = f"{probe.capitalize()} by distance"
    chart = _chart(runs, f"probe/{probe}", "gain", title, f"probe_{probe}", PROBES[probe], add_zero)
    if is_noise(_gains(runs, f"probe/{probe}"), MIN_GAIN):
        chart.says_nothing = (
            f"left out: no mean saves {MIN_GAIN:g} nats or more that the spread of its seeds does not explain"
        )
    return chart


def task_charts(runs: pd.DataFrame) -> list[Chart]:
    """Chart the accuracy of a task by length of the test sequences, and by the distance of what decides an answer."""
    seeds = "Bands: 95% intervals (Wilson's) over answers and seeds."
    by_length = "Share of test answers that are right, by the length of the sequence; dashed: the training length. "
    by_distance = "Share of test answers that are right, by the distance in tokens to what decides them. "
    length = _chart(runs, "length", "accuracy", "Accuracy by length", "accuracy_by_length", by_length + seeds)
    length.marks = {"training length": _training_lengths(runs)}
    title = "Accuracy by distance"
    return [length, _chart(runs, "distance", "accuracy", title, "accuracy_by_distance", by_distance + seeds)]


def _training_lengths(runs: pd.DataFrame) -> Values:
    return sorted({run["contract"].get("training.seq_len") or 0 for run in to_records(runs)} - {0})


def _gains(runs: pd.DataFrame, measure: str) -> list[list[Values]]:
    """Return the gains of the seeds of each architecture, for each stage and distance."""
    places: dict[tuple[str, str, float], dict[str, Values]] = {}
    for (group, stage), architectures in _load_measures(runs, measure).items():
        for name, seeds in architectures.items():
            for seed in seeds:
                for end, gain in zip(seed[measure].get("to", []), seed[measure].get("gain", []), strict=False):
                    if math.isfinite(gain):
                        places.setdefault((group, stage, end), {}).setdefault(name, []).append(gain)
    return [[*architectures.values()] for architectures in places.values()]


AXES = {
    "loss": ("position in the window (tokens seen)", Axis("loss (nats per token)")),
    "accuracy": ("distance to the last mention (tokens)", Axis("names recalled whole", limits=(0, 1.04))),
    "length": ("length of the sequence (tokens)", Axis("accuracy", limits=(0, 1.04))),
    "distance": ("distance to what decides the answer (tokens)", Axis("accuracy", limits=(0, 1.04))),
    "gain": ("distance to the mention (tokens)", Axis("nats saved for each token")),
}
"""Name of a measure of its own, or of a measured value -> label of x, and the y axis."""


def _chart(
    runs: pd.DataFrame,
    measure: str,
    value: str,
    title: str,
    file: str,
    note: str,
    add_references: Callable[[Panel, Trace, list[Measures]], None] | None = None,
) -> Chart:
    """Chart a measure of `load_context`; `add_references` adds to a panel what belongs to a trace and its seeds."""
    found = _load_measures(runs, measure)
    groups, stages = (list(dict.fromkeys(names)) for names in zip(*found, strict=True)) if found else ([], [])
    panels: list[Panel] = []
    for group in groups:
        for stage in stages:
            panel = Panel(panel_title(stage, group, groups))
            panels.append(panel)
            for architecture, seeds in found.get((group, stage), {}).items():
                trace = trace_of(architecture)
                _add_ranges(trace, [measures[measure] for measures in seeds], value)
                panel.traces.append(trace)
                if add_references:
                    add_references(panel, trace, seeds)
    x, y = AXES.get(measure) or AXES[value]
    axes = {"": Axis(x, is_log=True)}, {"": y}
    return Chart(measure.replace("/", "-"), title, note, *axes, {file: ""}, panels, columns=len(stages) or 1)


def _load_measures(runs: pd.DataFrame, measure: str) -> dict[tuple[str, str], dict[str, list[Measures]]]:
    """Load what the finished runs measured: (title of a group, stage) -> architecture -> its seeds."""
    found: dict[tuple[str, str], dict[str, list[Measures]]] = {}
    for group in ranking_groups(to_records(runs)):
        for run in group.runs:
            for stage, measures in load_context(run["run_dir"]).items():
                if measures[measure]:
                    members = found.setdefault((group.title, stage), {})
                    members.setdefault(str(run["architecture"]), []).append(measures)
    return found


def _add_ranges(trace: Trace, seeds: list[dict[str, Values]], name: str) -> None:
    """Add the mean and the band of every range that any of the seeds has.

    The band goes from the lowest seed to the highest; of a share, it is its interval.
    """
    is_share = name == "accuracy"
    values: dict[float, list[tuple[float, float]]] = {}
    for seed in seeds:
        ends = seed.get("to", [])
        counts = seed.get("n", []) if is_share else [MIN_RECALLS] * len(ends)
        for end, value, n in zip(ends, seed.get(name, []), counts, strict=False):
            if n >= MIN_RECALLS:
                values.setdefault(end, []).append((value, n))
    x = sorted(values)
    trace.x[""] = {"": x}
    if is_share:
        found = [share_interval([value * n for value, n in values[end]], [n for _, n in values[end]]) for end in x]
        trace.y[""], trace.low[""], trace.high[""] = ([each[part] for each in found] for part in range(3))
        return
    alone = [[value for value, _ in values[end]] for end in x]
    trace.y[""] = [*map(fmean, alone)]
    if len(seeds) > 1:
        trace.low[""], trace.high[""] = [*map(min, alone)], [*map(max, alone)]
