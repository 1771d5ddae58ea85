"""How loss falls with size: a power law for each architecture, with an interval, over the sizes of a folder of runs.

bits per byte = exp(a) * x^-b, fitted by least squares of the logarithms (Kaplan et al., 2020, arXiv 2001.08361), x
being active parameters without embeddings, or training FLOPs. The interval of b is Student's t; a law of two sizes has
none. Runs are compared at each size by the same rules, so a law is of one contract but for the size.
"""

# matplotlib leaves the types of **kwargs open, and scipy brings no types of its own.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.reporting.data.json_values import Record
from src.reporting.data.runs import finished_records, split_of, stage_names
from src.reporting.statistics.significance import LEVEL

AXES = {
    "active_non_embedding_params": "active parameters, without embeddings",
    "train_flops": "training FLOPs",
}
"""What loss may be fitted against, and how the axis is called."""
MIN_POINTS = 3


class Law(NamedTuple):
    """How an architecture's loss falls."""

    architecture: str
    x: list[float]
    """Of each size, the mean over seeds."""
    y: list[float]
    """Bits per byte, the mean over seeds."""
    exponent: float
    """b: the loss falls by the factor 2^-b where x doubles."""
    log_scale: float
    """a."""
    half_width: float | None
    """Of the 95% interval of b; None with fewer than three sizes."""

    def at(self, x: float) -> float:
        """Return the bits per byte that the law says."""
        return math.exp(self.log_scale) * x**-self.exponent


def fit_laws(runs: pd.DataFrame, axis: str = "active_non_embedding_params", stage: str | None = None) -> list[Law]:
    """Fit a law to each architecture that has finished runs of two sizes or more; `axis` is a key of AXES.

    stage: the one whose loss is fitted; the first unless given.
    """
    assert axis in AXES, f"axis={axis}: one of {', '.join(AXES)}"
    records = finished_records(runs)
    if not records:
        return []
    stage = stage or stage_names(runs)[0]
    key = f"{stage}/{split_of(records, [stage])}_bits_per_byte"
    x_key = f"{stage}/train_flops" if axis == "train_flops" else axis
    points: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        if record.get(key) is not None and record.get(x_key):
            points.setdefault(str(record["architecture"]), {}).setdefault(str(record["size"]), []).append(record)
    laws: list[Law] = []
    for architecture, sizes in points.items():
        if len(sizes) > 1:
            means = [
                [fmean(float(run[each]) for run in members) for each in (x_key, key)] for members in sizes.values()
            ]
            x, y = zip(*sorted(means), strict=True)
            laws.append(_fit(architecture, list(x), list(y)))
    return laws


def _fit(architecture: str, x: list[float], y: list[float]) -> Law:
    from scipy.special import stdtrit

    log_x, log_y = np.log(x), np.log(y)
    centred = log_x - log_x.mean()
    slope = float((centred * log_y).sum() / (centred**2).sum())
    intercept = float(log_y.mean() - slope * log_x.mean())
    half: float | None = None
    if len(x) >= MIN_POINTS:
        freedom = len(x) - 2
        rest = log_y - intercept - slope * log_x
        error = math.sqrt(float((rest**2).sum()) / freedom / float((centred**2).sum()))
        half = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    return Law(architecture, x, y, -slope, intercept, half)


def law_lines(laws: list[Law]) -> list[str]:
    """Say each law in a line."""
    if not laws:
        return ["no law: finished runs of at least two sizes are needed"]
    return [
        f"{law.architecture}: bits per byte fall as x^-{law.exponent:.3f}"
        + (f" ± {law.half_width:.3f}" if law.half_width is not None else f", no interval: {len(law.x)} sizes")
        for law in laws
    ]
