"""A published comparison in two files, small enough for version control: runs.json.gz and metrics.csv.gz.

    runs.json.gz    run -> summary, evaluation, samples by stage; earlier versions did not compress it
    metrics.csv.gz  a row for each run and logged step; a cell is a number or text as JSON

Readers of run folders read them through `run_folders`, which unpacks the two files into a temporary folder.
"""

import csv
import gzip
import io
import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, cast

from src.config.schema import UserError
from src.reporting.data.json_values import Record, as_dict
from src.runtime.atomic_files import write_bytes, write_json, write_text
from src.runtime.records import child_path, read_gzip, read_record, write_record

RUNS = "runs.json.gz"
EARLIER_RUNS = "runs.json"
METRICS = "metrics.csv.gz"
OTHERS = ("sweep.json", "learning_rates.json")
REMEDY = "publish the comparison again with python -m src.report dir=SWEEP publish_to=DIR"
_unpacked: list["TemporaryDirectory[str]"] = []  # removed when the process ends


class PublishedRun(TypedDict):
    """What is published of a run besides its metrics."""

    summary: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    samples: dict[str, list[Any]]


def write_archive(folder: Path, runs: Mapping[str, PublishedRun], metrics: Mapping[str, list[Record]]) -> None:
    """Write the two files. Metrics of a run: rows with the keys `stage`, `step` and whatever was logged."""
    rows = [{"run": run, **row} for run, rows in metrics.items() for row in rows]
    columns = sorted({key for row in rows for key in row})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([json.dumps(row[key]) if key in row else "" for key in columns])
    write_record(folder / RUNS, {"runs": dict(runs)})
    write_bytes(folder / METRICS, gzip.compress(text.getvalue().encode(), mtime=0))


def metrics_lines(rows: list[Record]) -> list[str]:
    """Write rows as the lines of a metrics.jsonl."""
    return [json.dumps(row) + "\n" for row in rows]


def runs_file(directory: Path) -> Path | None:
    """Return the file with the runs of a published comparison; None in another folder."""
    return next((directory / name for name in (RUNS, EARLIER_RUNS) if (directory / name).is_file()), None)


def run_folders(directory: Path) -> Path:
    """Return a folder in which each run has a folder: the directory itself, or a temporary copy of a published one.

    Raises: UserError where the published files are damaged.
    """
    path = runs_file(directory)
    if path is None:
        return directory
    stamps = tuple(place.stat().st_mtime_ns for place in (path, directory / METRICS) if place.exists())
    return _unpack(directory.resolve(), path.name, stamps)


@cache
def _unpack(directory: Path, name: str, stamps: tuple[int, ...]) -> Path:
    content = read_record(directory / name, dict[str, Any], REMEDY).get("runs")
    if not isinstance(content, dict):
        raise UserError(f"{directory / name}: has no runs; {REMEDY}")
    metrics = _read_metrics(directory / METRICS)
    temporary = TemporaryDirectory(prefix="published-")
    _unpacked.append(temporary)
    folder = Path(temporary.name)
    for name in OTHERS:
        if (directory / name).is_file():
            shutil.copyfile(directory / name, folder / name)
    for run, entry in cast(dict[str, Any], content).items():
        place, values = child_path(folder / "runs", run), as_dict(entry)
        place.mkdir(parents=True)
        for name in ("summary", "evaluation"):
            if isinstance(values.get(name), dict):
                write_record(place / f"{name}.json", as_dict(values[name]))
        for stage, texts in as_dict(values.get("samples")).items():
            write_json(child_path(place / "samples", stage, ".json"), texts)
        write_text(place / "metrics.jsonl", "".join(metrics_lines(metrics.get(run, []))))
    return folder


def _read_metrics(path: Path) -> dict[str, list[Record]]:
    """Read the rows of each run. Raises: UserError where the file is damaged."""
    content = read_gzip(path, REMEDY)
    try:
        header, *rows = csv.reader(io.StringIO(content.decode("utf-8")))
        found: dict[str, list[Record]] = {}
        for row in rows:
            values = {key: json.loads(cell) for key, cell in zip(header, row, strict=True) if cell}
            found.setdefault(str(values.pop("run")), []).append(values)
    except (ValueError, KeyError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:80]}); {REMEDY}") from None
    return found
