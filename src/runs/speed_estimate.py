"""Estimate how fast a model trains on this machine, from finished runs and benchmarks of the output root."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from src.config.schema import ModelSpec, UserError
from src.model.cost.model_cost import ModelCost
from src.reporting.data.json_values import as_dict, as_list, as_number
from src.runs.summary import read_summary
from src.runtime.records import read_verified_json


class Measured(NamedTuple):
    """A measured speed of training."""

    architecture: str
    model: Mapping[str, Any] | None
    """Its fields, of a run; None of a benchmark."""
    total_params: float
    context_len: int
    tokens_per_second: float
    flops_per_token: float


class Speed(NamedTuple):
    """An estimated speed of training."""

    tokens_per_second: float
    is_measured: bool
    """Whether this model was measured at this context; otherwise the speed is by the FLOP/s of another one."""


def find_measured(roots: Iterable[Path], device: str) -> list[Measured]:
    """Return what was measured on this kind of device, the newest last and runs after benchmarks."""
    roots = list(roots)
    return [*_benchmarks(roots, device), *_runs(roots, device)]


def estimate_speed(
    architecture: str, spec: ModelSpec, cost: ModelCost, context_len: int, measured: Iterable[Measured]
) -> Speed | None:
    """Return the speed of the same model and context, or by the FLOP/s of the same architecture, or else of any."""
    best: tuple[int, Speed] | None = None
    for one in measured:
        is_same = one.context_len == context_len and (
            one.model == spec.to_dict()
            if one.model is not None
            else (one.architecture, one.total_params) == (architecture, cost.total_params)
        )
        similarity = 2 if is_same else int(one.architecture == architecture)
        scale = 1.0 if is_same else one.flops_per_token / cost.train_flops_per_token
        if best is None or similarity >= best[0]:
            best = similarity, Speed(one.tokens_per_second * scale, is_same)
    return best and best[1]


def _newest_last(roots: Iterable[Path], pattern: str) -> list[Path]:
    return sorted((file for root in roots for file in root.glob(pattern)), key=lambda file: file.stat().st_mtime_ns)


def _runs(roots: Iterable[Path], device: str) -> Iterable[Measured]:
    """Yield the speeds of finished runs; damaged ones are left out."""
    for file in _newest_last(roots, "runs/*/summary.json"):
        with suppress(UserError):
            summary = read_summary(file.parent)
            flops = summary and as_number(summary["accounting"].get("train_flops_per_token"))
            if not summary or summary["status"] != "done" or not summary["final"] or not flops:
                continue
            context_len = as_number(summary["contract"].get("training.seq_len"))
            if summary["environment"].get("device") == device:
                speed, params = summary["final"]["tokens_per_second"], summary["accounting"].get("total_params", 0)
                architecture, model = summary["architecture"], summary["model"]
                yield Measured(architecture, model, params, int(context_len or 0), speed, flops)


def _benchmarks(roots: Iterable[Path], device: str) -> Iterable[Measured]:
    """Yield the speeds of training of benchmarks; damaged ones are left out."""
    for file in _newest_last(roots, "benchmarks/*/benchmark.json"):
        found: dict[str, Any] = {}
        with suppress(UserError):
            found = as_dict(read_verified_json(file, "measure again with python -m src.benchmark"))
        if found.get("device") != device:
            continue
        for series in map(as_dict, as_list(found.get("series"))):
            for point in map(as_dict, as_list(series.get("points"))):
                speed, flops = as_number(point.get("tokens_per_second")), as_number(point.get("flops_per_second"))
                context_len = as_number(point.get("context_len"))
                if (point.get("phase"), point.get("model")) == ("train", "ours") and speed and flops and context_len:
                    name, params = str(series.get("architecture")), as_number(series.get("total_params")) or 0
                    yield Measured(name, None, params, int(context_len), speed, flops / speed)
