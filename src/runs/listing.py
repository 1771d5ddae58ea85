"""The table of runs, its filter and order, and the best run by a metric."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from src.cli.command_line import suggest_choices
from src.config.checks import shorten
from src.config.comparability import comparable_groups
from src.config.formatting import NOTHING, columns_to_drop, count_of, show_bytes, show_count, show_time, terminal_width
from src.config.schema import UserError
from src.reporting.data.runs import load_runs, to_records
from src.runs.lookup import current_status, folder_bytes, list_runs
from src.runtime.log import replace_control_chars

Record = dict[str, Any]


def _show_bits(run: Record) -> str:
    test, val = run["test_bits_per_byte"], run["val_bits_per_byte"]
    if test is None and val is None and run["val_accuracy"] is not None:
        return f"accuracy {run['val_accuracy'] if run['test_accuracy'] is None else run['test_accuracy']:.4f}"
    return f"{test:.4f}" if test is not None else NOTHING if val is None else f"val {val:.4f}"


class Column(NamedTuple):
    """A column of the table."""

    heading: str
    show: Callable[[Record], str]
    is_text: bool = False


COLUMNS: dict[str, Column] = {
    "name": Column("name", lambda run: str(run["name"]), is_text=True),
    "architecture": Column("architecture", lambda run: run["architecture"] or NOTHING, is_text=True),
    "size": Column("size", lambda run: run["size"] or NOTHING, is_text=True),
    "stage": Column("stage", lambda run: run["stage"] or NOTHING, is_text=True),
    "seed": Column("seed", lambda run: NOTHING if run["seed"] is None else str(run["seed"])),
    "status": Column("status", lambda run: run["status"] or NOTHING, is_text=True),
    "tokens": Column("tokens", lambda run: show_count(run["tokens"])),
    "bits_per_byte": Column("bits per byte", _show_bits),
    "time": Column("time", lambda run: show_time(run["time"])),
    "disk": Column("disk", lambda run: show_bytes(run["disk"])),
}
DROPPED = ("stage", "seed", "size", "architecture", "time", "tokens", "disk", "bits_per_byte", "status")
"""The columns that a narrow terminal leaves out, in this order. The name of a run contains the first four."""
FILTERS = ("name", "architecture", "size", "recipe", "stage", "data", "seed", "status", "device", "precision")
METRICS = (
    *("val_accuracy", "test_accuracy"),
    *("val_bits_per_byte", "val_loss", "best_val_loss", "test_bits_per_byte", "test_loss", "tokens_per_second"),
    *("wall_time_s", "peak_memory_bytes", "train_flops"),
)
HIGHER_IS_BETTER = ("tokens_per_second", "val_accuracy", "test_accuracy")


def load_rows(root: Path, conditions: Sequence[str] = ()) -> list[Record]:
    """Load a row for each run below an output root that fulfills the conditions, in the order of reports.

    Raises: UserError for an invalid condition, or if there are no runs.
    """
    checked = [_parse_condition(condition) for condition in conditions]
    if not list_runs(root):
        raise UserError(f"output_root={root}: no run in its folder runs; train first: python -m src.train")
    rows: list[Record] = []
    for record in to_records(load_runs(root / "runs")):
        folder = root / "runs" / str(record["run"])
        if folder.is_symlink() or not folder.is_dir():
            continue
        row = record | {"name": record["run"], "folder": folder, "time": record["wall_time_s"]}
        bits = (record["test_bits_per_byte"], record["val_bits_per_byte"])
        row["bits_per_byte"] = next((value for value in bits if value is not None), None)
        row["status"] = current_status(record["status"], folder)
        if all(fnmatchcase(str(row[key]), value) for key, value in checked):
            rows.append(row)
    return rows


def _parse_condition(condition: str) -> tuple[str, str]:
    """Split COLUMN=VALUE. Raises: UserError for another form or an unknown column."""
    key, sign, value = condition.partition("=")
    if not sign or not value:
        raise UserError(f"filter={shorten(condition)}: must be COLUMN=VALUE, as in filter=[architecture=moe]")
    if key not in FILTERS:
        raise UserError(f"filter={shorten(condition)}: no such column; there are {', '.join(FILTERS)}")
    return key, value


def list_lines(root: Path, conditions: Sequence[str], sort: str | None) -> tuple[list[str], str]:
    """Return the table of the runs, and a metric that they have: accuracy where all are of synthetic tasks.

    Raises: UserError for an invalid condition or column.
    """
    key, is_descending = (sort or "").removeprefix("-"), (sort or "").startswith("-")
    if sort is not None and key not in COLUMNS:
        raise UserError(f"sort={shorten(sort)}: no such column; there are {', '.join(COLUMNS)}")
    rows = load_rows(root, conditions)
    for row in rows:
        row["disk"] = folder_bytes(row["folder"])
    if sort is not None:
        known = [row for row in rows if row[key] is not None]
        known.sort(key=lambda row: row[key], reverse=is_descending)
        rows = known + [row for row in rows if row[key] is None]
    are_tasks = bool(rows) and all(row["val_accuracy"] is not None for row in rows)
    metric = "val_accuracy" if are_tasks else "val_bits_per_byte"
    if not rows:
        return [f"No run fulfills filter=[{','.join(conditions)}]"], metric
    total = show_bytes(sum(row["disk"] for row in rows))
    links = sorted(path.name for path in (root / "runs").iterdir() if path.is_symlink())
    left_out = [f"Left out, a symbolic link: {replace_control_chars(name)}" for name in links]
    return [*_format_table(rows, terminal_width()), "", f"{count_of(len(rows), 'run')}, {total}", *left_out], metric


def _format_table(rows: Sequence[Record], width: int | None) -> list[str]:
    """Format the table within a number of columns of the terminal; None: all columns of the table."""
    cells = {key: [column.heading, *map(column.show, rows)] for key, column in COLUMNS.items()}
    widths = {key: max(map(len, column)) for key, column in cells.items()}
    for key in columns_to_drop(widths, DROPPED, width):
        del cells[key]
    padded: list[list[str]] = []
    for key, column in cells.items():
        most = max(map(len, column))
        padded.append([cell.ljust(most) if COLUMNS[key].is_text else cell.rjust(most) for cell in column])
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]


def best_lines(root: Path, metric: str, conditions: Sequence[str]) -> list[str]:
    """Name the best finished run by a metric, and how many were compared.

    Raises: UserError for an unknown metric, or if no finished run has it.
    """
    name = metric.rpartition("/")[2]
    if name not in METRICS:
        remedy = suggest_choices(name, METRICS)
        remedy = f"; there are {', '.join(METRICS)}" if "--help" in remedy else remedy
        raise UserError(f"best={shorten(metric)}: no such metric{remedy}")
    rows = [row for row in load_rows(root, conditions) if row["status"] == "done"]
    known = [row for row in rows if row.get(metric) is not None]
    if not known:
        stages = dict.fromkeys(key.partition("/")[0] for row in rows for key in row if key.endswith(f"/{name}"))
        remedy = f"; of one stage: {', '.join(f'best={stage}/{name}' for stage in stages)}" if stages else ""
        raise UserError(f"best={shorten(metric)}: no finished run has it, of {len(rows)} finished runs{remedy}")
    is_higher = name in HIGHER_IS_BETTER
    best = (max if is_higher else min)(known, key=lambda row: row[metric])
    lines = [
        f"{best['folder']}",
        f"{metric} {best[metric]:.6g}, the {'highest' if is_higher else 'lowest'} of "
        f"{count_of(len(known), 'finished run')}",
    ]
    if unknown := len(rows) - len(known):
        lines.append(f"Without this metric: {count_of(unknown, 'finished run')}")
    contracts = {str(row["name"]): row["contract"] for row in known}
    groups = comparable_groups(contracts, speed=name in ("tokens_per_second", "wall_time_s", "peak_memory_bytes"))
    if len(groups) > 1:
        lines.append(
            f"Not all are comparable: they have {len(groups)} different contracts (data, budget, settings); "
            "python -m src.report says which, and filter=[...] limits the choice"
        )
    return lines
