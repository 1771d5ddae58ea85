"""The chart of a ladder: loss against training FLOPs, as measured, and as the law of each architecture predicts it."""

from itertools import pairwise
from statistics import fmean

import numpy as np
import pandas as pd

from src.reporting.data.runs import finished_records
from src.reporting.plots.chart import Axis, Chart, Panel, trace_of
from src.reporting.statistics.iso_flop import FlopsOfSize, flops_per_token
from src.reporting.statistics.joint_law import JointLaw, fit_joint_laws

BEYOND = 100.0
"""How far the prediction is drawn, as a multiple of the largest FLOPs of the ladder."""
N_PLACES, N_SIZES = 61, 200
LARGEST = 1e3
"""Up to which multiple of the ladder's largest size the prediction chooses."""


def ladder_chart(runs: pd.DataFrame) -> Chart:
    """Chart the results of each architecture that a law can be fitted to, and its lowest predicted loss over sizes."""
    records = finished_records(runs)
    panel, curves = Panel(""), dict[str, np.ndarray]()
    laws = fit_joint_laws(runs)
    per_token = {law.architecture: flops_per_token(records, law.architecture) for law in laws}
    reached: dict[str, dict[float, list[float]]] = {}
    for law in laws:
        for point in law.points:
            flops = float(per_token[law.architecture](np.array(point.params)) * point.tokens)
            reached.setdefault(law.architecture, {}).setdefault(flops, []).append(point.loss)
    every = [flops for losses in reached.values() for flops in losses]
    places = np.geomspace(min(every), BEYOND * max(every), N_PLACES) if every else np.array([])
    for law in laws:
        points, line = trace_of(law.architecture, dash=""), trace_of(law.architecture)
        flops, losses = zip(*sorted(reached[law.architecture].items()), strict=True)
        points.add_seeds("", {"": [*flops]}, [[fmean(seeds) for seeds in losses]])
        curves[law.architecture] = _lowest_losses(law, per_token[law.architecture], places)
        line.marker = ""
        line.add_seeds("", {"": places.tolist()}, [curves[law.architecture].tolist()])
        panel.traces += [points, line]
    changes = _changes(curves, places)
    note = "Points: results. Lines: the lowest loss that the law of an architecture predicts, at its best size for "
    note += f"these FLOPs; right of the last points they extrapolate, up to {BEYOND:.0f} times."
    return Chart(
        "ladder",
        "Loss by training FLOPs, predicted",
        note,
        {"": Axis("training FLOPs", is_log=True)},
        {"": Axis("bits per byte")},
        {"ladder": ""},
        [panel],
        marks={"another architecture is best": changes} if changes else {},
    )


def _lowest_losses(law: JointLaw, per_token: FlopsOfSize, places: np.ndarray) -> np.ndarray:
    """Return the lowest loss over sizes for each number of FLOPs, (places,)."""
    sizes = [point.params for point in law.points]
    params = np.geomspace(min(sizes), LARGEST * max(sizes), N_SIZES)[:, None]
    tokens = places / per_token(params)
    is_trusted = tokens / params <= law.tokens_per_parameter
    return np.where(is_trusted, law.losses(params, tokens), np.inf).min(axis=0)


def _changes(curves: dict[str, np.ndarray], places: np.ndarray) -> list[float]:
    """Return the FLOPs at which another architecture has the lowest line."""
    if len(curves) < 2:
        return []
    best = np.stack([*curves.values()]).argmin(axis=0)
    return [float(places[index + 1]) for index, (left, right) in enumerate(pairwise(best.tolist())) if left != right]
