"""Read the metrics.jsonl of runs into a DataFrame."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pandas as pd

from src.config.schema import UserError
from src.reporting.data.json_values import Record, as_dict, as_number
from src.reporting.data.runs import load_runs, to_records
from src.runtime.atomic_files import read_bytes

POINT_COLUMNS = ("stage", "step", "tokens", "flops", "wall_time_s")


def load_metrics(directory: str | Path) -> pd.DataFrame:
    """Load all rows of every metrics.jsonl: run, architecture, size, seed, POINT_COLUMNS, then one column a metric."""
    return read_metrics(load_runs(directory))


def read_metrics(runs: pd.DataFrame, max_rows: int | None = None) -> pd.DataFrame:
    """Read the metrics of these runs, as `load_metrics` does.

    max_rows: keep about so many rows a run, those of the validation first; a plot needs no more.
    """
    owners = to_records(runs[["run", "architecture", "size", "seed"]])
    points = [read_points(Path(folder) / "metrics.jsonl", max_rows) for folder in runs["run_dir"]]
    columns = dict.fromkeys([*POINT_COLUMNS, *sorted({key for rows in points for row in rows for key in row})])
    values: dict[str, Any] = {
        key: [owner[key] for owner, rows in zip(owners, points, strict=True) for _ in rows] for key in owners[0]
    }
    for column in columns:
        series = pd.Series([row.get(column) for rows in points for row in rows], dtype=object)
        values[column] = series if column == "stage" else pd.to_numeric(series, errors="coerce").astype("float64")
    return pd.DataFrame(values)


def read_points(path: Path, max_rows: int | None) -> list[Record]:
    """Read the rows of a metrics.jsonl, about `max_rows` of them; see `read_metrics`."""
    try:
        lines = read_bytes(path).splitlines()
    except UserError:
        return []
    if max_rows and len(lines) > max_rows:
        stride = math.ceil(len(lines) / max_rows)
        validation = {index for index, line in enumerate(lines) if b'"val/' in line}
        spared = validation if len(validation) <= max_rows else set[int]()
        lines = [line for index, line in enumerate(lines) if index % stride == 0 or index in spared]
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")  # one call for all is several times faster
    except (ValueError, RecursionError):
        rows = [row for line in lines if (row := _parse(line)) is not None]
    return _drop_replayed(map(as_dict, cast(list[Any], rows)))


def _drop_replayed(rows: Iterable[Record]) -> list[Record]:
    """Keep the latest row of each step: a resumed run goes back to its checkpoint and logs again from there."""
    kept: list[Record] = []
    for row in rows:
        stage, step = row.get("stage"), as_number(row.get("step"))
        if not isinstance(stage, str) or step is None:
            continue
        if kept and kept[-1]["stage"] == stage and kept[-1]["step"] > step:
            while kept and kept[-1]["stage"] == stage and kept[-1]["step"] >= step:
                kept.pop()
        kept.append(row)
    return kept


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # the half line of a run that was killed
        return None
