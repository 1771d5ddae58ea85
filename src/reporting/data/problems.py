"""Collect what a report leaves out: figures that fail, damaged files, lost rows."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pandas as pd

from src.config.schema import UserError
from src.reporting.data.json_values import Record, as_dict, read_or_none
from src.reporting.data.runs import to_records
from src.runtime.atomic_files import read_bytes
from src.runtime.errors import first_line
from src.runtime.log import replace_control_chars
from src.runtime.records import MetricsDigest, digest_lines, is_plain_name, read_verified_json

T = TypeVar("T")


class Problems:
    """The lines of one report."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, what: str, build: Callable[[], T], instead: T) -> T:
        """Return what `build` returns; if it fails, note so and return `instead`."""
        try:
            return build()
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.lines.append(replace_control_chars(f"{what}: left out ({kind}{first_line(error)})"))
            return instead


def damage_lines(runs: pd.DataFrame, directory: Path) -> list[str]:
    """Name the files of these runs, and of the sweep in `directory`, that are there and cannot be read whole."""
    jobs = sorted(f"jobs/{file.name}" for file in (directory / "jobs").glob("*.json"))
    lines = [line for name in jobs for line in _damage(directory, name, "status")]
    lines += _damage(directory, "learning_rates.json", "searches")
    for record in to_records(runs):
        folder, run = Path(record["run_dir"]), record["run"]
        summary = as_dict(read_or_none(folder / "summary.json"))
        found = [*_damage(folder, "evaluation.json", "stages"), *_damaged_samples(folder, summary)]
        lines += [f"{run}: {line}" for line in [*found, *_lost_metrics(folder, summary)]]
    return [replace_control_chars(line) for line in lines]


def _damage(folder: Path, name: str, key: str | None) -> list[str]:
    """Say what is wrong with a file, if it is there: it has to be an object with a key, or a list if there is none."""
    if not os.path.lexists(folder / name):
        return []
    try:
        content = read_verified_json(folder / name, "its content is left out")
    except UserError as error:
        return [str(error).removeprefix(f"{folder}/")]
    fits = isinstance(content, list) if key is None else key in as_dict(content)
    return [] if fits else [f"{name}: has no {key or 'list'}; it is left out"]


def _damaged_samples(folder: Path, summary: Record) -> Iterator[str]:
    """Compare the samples of each stage with what the run has written."""
    for stage, entry in as_dict(summary.get("stages")).items():
        name, sha256 = f"samples/{stage}.json", as_dict(entry).get("samples_sha256")
        if not is_plain_name(stage) or not (folder / name).exists():
            continue
        problems = _damage(folder, name, None)
        yield from problems
        if sha256 and not problems and hashlib.sha256(read_bytes(folder / name)).hexdigest() != sha256:
            yield f"{name}: damaged: its content is not what the run wrote"


def _lost_metrics(folder: Path, summary: Record) -> Iterator[str]:
    """Compare the rows of metrics with what the run has written, once it has ended."""
    metrics = as_dict(summary.get("metrics"))
    if not metrics or summary.get("status") == "running":
        return
    if metrics.get("lost"):
        yield "metrics.jsonl: rows were lost or changed while the run was unfinished; its curves have gaps"
    try:
        content = read_bytes(folder / "metrics.jsonl").decode("utf-8", "replace")
    except UserError as error:
        yield str(error).removeprefix(f"{folder}/")
        return
    found = digest_lines(content.splitlines(keepends=True))
    if found != MetricsDigest(metrics.get("rows", 0), str(metrics.get("sha256"))):
        rows = metrics.get("rows")
        yield f"metrics.jsonl: {found.rows} rows, not the {rows} that the run wrote; the curves show only these"
