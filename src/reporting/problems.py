"""What a report has to leave out, a line each: a figure that fails, a file that is damaged, rows that were lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pandas as pd

from src.config import UserError
from src.reporting.load import stage_names, to_records
from src.reporting.values import as_dict, read_or_none
from src.runtime.errors import first_line
from src.runtime.files import read_bytes
from src.runtime.log import printable
from src.runtime.records import Mark, child_path, mark_of, read_checked

T = TypeVar("T")


class Problems:
    """The lines of one report."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, what: str, build: Callable[[], T], instead: T) -> T:
        """Return what `build` returns; where it fails, note so and return `instead`: one part never costs the rest."""
        try:
            return build()
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.lines.append(printable(f"{what}: left out ({kind}{first_line(error)})"))
            return instead


def damage_lines(runs: pd.DataFrame, directory: Path) -> list[str]:
    """Name the files of these runs, and of the sweep in `directory`, that are there and cannot be read whole."""
    lines = [*_unreadable(directory, ["learning_rates.json"])]
    for record in to_records(runs):
        folder, run = Path(record["run_dir"]), record["run"]
        samples = [f"samples/{child_path(Path(), stage, '.json')}" for stage in stage_names(runs)]
        lines += [f"{run}: {line}" for line in _unreadable(folder, ["evaluation.json", *samples])]
        lines += [f"{run}: {line}" for line in _lost_metrics(folder)]
    return [printable(line) for line in lines]


def _unreadable(folder: Path, names: list[str]) -> Iterator[str]:
    for name in names:
        try:
            if (folder / name).exists():
                read_checked(folder / name, "what it holds is left out")
        except UserError as error:
            yield str(error).removeprefix(f"{folder}/")


def _lost_metrics(folder: Path) -> Iterator[str]:
    """Compare the rows of metrics with what the run has written, once it has ended."""
    summary = as_dict(read_or_none(folder / "summary.json"))
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
    found = mark_of(content.splitlines(keepends=True))
    if found != Mark(metrics.get("rows", 0), str(metrics.get("sha256"))):
        yield f"metrics.jsonl: {found.rows} rows, not the {metrics.get('rows')} that the run wrote; curves are of these"
