"""Compare what the laws of a ladder predict with runs that the ladder has not seen.

Predictions do not need the results: a sweep that has just started has its jobs in sweep.json, so they can be written
down beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd

from src.reporting.data.archive import run_folders
from src.reporting.data.find_runs import find_runs
from src.reporting.data.json_values import as_number, as_numbers
from src.reporting.data.runs import to_records
from src.reporting.statistics.joint_law import JointLaw, Prediction, points_of
from src.reporting.statistics.significance import LEVEL


@dataclass(frozen=True)
class HeldOut:
    """A size and budget of an architecture that the ladder does not have."""

    law: JointLaw
    size: str
    params: float
    tokens: float
    losses: tuple[float, ...]
    """In bits per byte, of each seed; empty before the first run has finished."""

    @cached_property
    def prediction(self) -> Prediction:
        """Of one run."""
        return self.law.predict(self.params, self.tokens)

    @property
    def is_below(self) -> bool:
        """Whether it is smaller than anything that the law was fitted to."""
        return self.law.is_below(self.params, self.tokens)

    @property
    def loss(self) -> float | None:
        """Mean over seeds."""
        return fmean(self.losses) if self.losses else None

    @property
    def error(self) -> float | None:
        """Of the prediction, relative to the loss; positive where it was too high."""
        return None if self.loss is None else self.prediction.loss / self.loss - 1

    @property
    def is_inside(self) -> bool:
        """Whether the loss lies in the 95% interval."""
        return self.loss is not None and self.prediction.low <= self.loss <= self.prediction.high


@dataclass(frozen=True)
class Order:
    """Two architectures at one size and budget, whose order the laws call significant."""

    lower: HeldOut
    higher: HeldOut

    @property
    def is_right(self) -> bool | None:
        """None before both have finished."""
        lower, higher = self.lower.loss, self.higher.loss
        return None if lower is None or higher is None else lower < higher


def held_out_results(laws: Sequence[JointLaw], directory: Path, runs: pd.DataFrame) -> list[HeldOut]:
    """List the sizes and budgets of a sweep that the laws were not fitted to; its runs need not have finished.

    runs: those of `directory`, as `load_runs` gives them.
    """
    cells: dict[tuple[str, float, float], list[float]] = {cell: [] for cell in _planned(directory)}
    for architecture, points in points_of(runs).items():
        for point in points:
            cells.setdefault((architecture, *point[:2]), []).append(point.loss)
    sizes = {record["active_non_embedding_params"]: str(record["size"]) for record in to_records(runs)}
    found = [
        HeldOut(law, sizes[params], params, tokens, tuple(losses))
        for law in laws
        for (architecture, params, tokens), losses in cells.items()
        if architecture == law.architecture and (params, tokens) not in {point[:2] for point in law.points}
    ]
    smallest = {size: min(each.params for each in found if each.size == size) for size in {each.size for each in found}}
    return sorted(found, key=lambda each: (smallest[each.size], each.tokens))


def _planned(directory: Path) -> list[tuple[str, float, float]]:
    """Return architecture, size and tokens of each job of a sweep and its branches: what `points_of` will have."""
    found: list[tuple[str, float, float]] = []
    for run in find_runs(run_folders(directory)):
        tokens, shared = as_numbers(run.planned.get("stage_tokens")), as_numbers(run.planned.get("shared_tokens"))
        params = as_number(run.planned.get("active_non_embedding_params"))
        if params:
            name = f"{run.planned['architecture']} {run.variant}".strip()
            stages = [stage for index, stage in enumerate(tokens) if not index or shared.get(stage)]
            found += [(name, params, (tokens[stage] or 0) + (shared.get(stage) or 0)) for stage in stages]
    return found


def significant_orders(results: Sequence[HeldOut]) -> list[Order]:
    """List the pairs of one size and budget of which one has the lower loss in 97.5% of the laws' draws."""
    found: list[Order] = []
    for one, other in combinations(results, 2):
        if (one.size, one.tokens) == (other.size, other.tokens):
            generator = np.random.default_rng(0)
            first, second = (each.law.runs(each.params, each.tokens, generator) for each in (one, other))
            share = float(np.mean(first < second))
            if max(share, 1 - share) >= 1 - LEVEL / 2:
                found.append(Order(one, other) if share > 0.5 else Order(other, one))
    return found
