"""Quality against cost: bits per byte, or a task's error, against FLOPs, memory and time, with the Pareto front."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import pandas as pd

from src.config.formatting import count_of
from src.reporting.data.json_values import Record, mean_value
from src.reporting.data.metric import metric_of
from src.reporting.data.runs import split_of, stage_names, to_records
from src.reporting.plots.chart import Axis, Chart, Panel, Trace, Values, panel_title, trace_of
from src.reporting.plots.training import time_unit
from src.reporting.statistics.groups import SPLITS, Group, ranking_groups, stage_values
from src.reporting.statistics.significance import mean_and_half_width
from src.reporting.statistics.verdicts import compare_headlines

COSTS = {
    "flops": ("train_flops", "training FLOPs of the stage"),
    "memory": ("peak_memory_bytes", "peak memory of the stage (bytes)"),
    "time": ("wall_time_s", "training time of the stage"),
}
"""Name of an x axis -> column of a stage, and its label."""
CORNERS = ("top right", "bottom right", "top left", "bottom left")
CHARACTER = 0.017
"""Width of a character of a point's name, as a share of the range of the points; likewise the height of a line."""
LINE = 0.06


def cost_chart(runs: pd.DataFrame) -> Chart:
    """Chart bits per byte or error of every architecture against its cost: a panel for each stage of each group.

    A cost that the budget makes equal, or that was not measured under equal conditions, is left out with the reason.
    """
    records, stages = to_records(runs), stage_names(runs)
    split = split_of(records, stages)
    unstable = {(each.group.title, each.stage): each.comparison.unstable for each in compare_headlines(runs)}
    groups = [group for group in ranking_groups(records) if len(group.by_architecture()) > 1]
    groups = [group for group in groups if not group.has_repeated_seeds()]
    reasons = {cost: why for cost in COSTS for group in groups if (why := _why_not(group, cost))}
    costs = [cost for cost in COSTS if cost not in reasons]
    times = [run[f"{stage}/wall_time_s"] or 0.0 for run in records for stage in stages]
    unit, seconds = time_unit(max(times, default=0.0))
    panels: list[Panel] = []
    for group in groups:
        for stage in stages:
            values = stage_values(group, stage, split)
            left_out = unstable.get((group.title, stage), {})
            traces = _traces(group, stage, values, left_out, costs, seconds) if values and costs else []
            panels.append(Panel(panel_title(stage, group.title, [group.title for group in groups]), traces))
    note = "Mean over seeds with its 95% interval (from three seeds on); lower and further left is better."
    note += " Dotted: the Pareto front of the means, on which no architecture is both cheaper and lower."
    if any(unstable.values()):
        note += " Open: seeds of an unstable architecture."
    note += "".join(f" Left out: {COSTS[cost][1].split(' of ')[0]}: {why}." for cost, why in reasons.items())
    units = {"time": f" ({unit})"}
    units_of_cost = dict.fromkeys(metric_of(records, stage).cost_unit for stage in stages)
    return Chart(
        "cost",
        "Quality against cost",
        note,
        {cost: Axis(COSTS[cost][1] + units.get(cost, "")) for cost in costs},
        {"": Axis(f"{SPLITS[split]} {' or '.join(units_of_cost)}")},
        {f"quality_vs_{cost}": cost for cost in costs},
        panels,
        kind="points",
        columns=len(stages) or 1,
    )


def _why_not(group: Group, cost: str) -> str | None:
    """Return why a cost of a group says nothing about its architectures, or None."""
    if group.budget == cost:
        return "is equal by the budget"
    return group.speed_problem() if cost == "time" else None


def _traces(
    group: Group,
    stage: str,
    values: Mapping[str, Sequence[float]],
    unstable: Mapping[str, Sequence[float]],
    costs: Sequence[str],
    seconds: float,
) -> list[Trace]:
    """Return a point for each architecture, the seeds of unstable ones, and a front for each cost."""
    spent: dict[str, dict[str, float]] = {cost: {} for cost in costs}
    for name, members in group.by_architecture().items():
        for cost in costs:
            if value := _cost(members, stage, cost):
                spent[cost][name] = value / (seconds if cost == "time" else 1.0)
    traces: list[Trace] = []
    for name, seeds in values.items():
        trace = trace_of(name)
        trace.x[""] = {cost: [known[name]] for cost, known in spent.items() if name in known}
        if name in unstable:
            trace.seeds[""] = [*seeds]
        else:
            mean, half = mean_and_half_width(seeds)
            trace.y[""], trace.text[""] = [mean], f"{mean:.3f} ({count_of(len(seeds), 'seed')})"
            if half is not None:
                trace.low[""], trace.high[""] = [mean - half], [mean + half]
        traces.append(trace)
    for cost, known in spent.items():
        corners = name_corners({name: (known[name], fmean(seeds)) for name, seeds in values.items() if name in known})
        for trace in traces:
            if trace.name in corners:
                trace.corners[cost] = corners[trace.name]
    means = {name: fmean(seeds) for name, seeds in values.items() if name not in unstable}
    fronts = [
        Trace("Pareto front", marker="", dash="dot", x={"": {cost: x}}, y={"": y})
        for cost, known in spent.items()
        for x, y in [pareto_front([(known[name], means[name]) for name in means if name in known])]
        if x
    ]
    return [*traces, *fronts]


def _cost(members: Sequence[Record], stage: str, cost: str) -> float | None:
    return mean_value(members, f"{stage}/{COSTS[cost][0]}")


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[Values, Values]:
    """Return x and y of the points than which no other is lower in both, by x."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return [x for x, _ in front], [y for _, y in front]


Box = tuple[float, float, float, float]
"""Left, bottom, right and top, as shares of the range of the points."""


def name_corners(points: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Return the corner of each point at which its name covers least of the other names and points."""
    if not points:
        return {}
    x, y = ([point[axis] for point in points.values()] for axis in (0, 1))
    wide, high = max(x) - min(x) or 1.0, max(y) - min(y) or 1.0
    places = {name: ((at - min(x)) / wide, (up - min(y)) / high) for name, (at, up) in points.items()}
    taken: list[Box] = [(at - CHARACTER, up - LINE / 2, at + CHARACTER, up + LINE / 2) for at, up in places.values()]
    corners: dict[str, str] = {}
    for name, place in places.items():
        boxes = {corner: _name_box(name, place, corner) for corner in CORNERS}
        corners[name] = min(CORNERS, key=lambda corner: sum(_overlap(boxes[corner], other) for other in taken))
        taken.append(boxes[corners[name]])
    return corners


def _name_box(name: str, place: tuple[float, float], corner: str) -> Box:
    (x, y), width = place, CHARACTER * (len(name) + 1)
    left = x + CHARACTER if "right" in corner else x - CHARACTER - width
    bottom = y + LINE / 2 if "top" in corner else y - 1.5 * LINE
    return left, bottom, left + width, bottom + LINE


def _overlap(one: Box, other: Box) -> float:
    width, height = (min(one[end + 2], other[end + 2]) - max(one[end], other[end]) for end in (0, 1))
    return max(0.0, width) * max(0.0, height)
