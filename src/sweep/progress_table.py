"""A live table of the jobs of a sweep in the terminal.

It only reads the job records and metrics.jsonl, so it works with any launcher and cannot disturb a job.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from src.config.formatting import NOTHING, show_time
from src.sweep.job_store import Job, JobStore

REFRESH_S = 1.0
TAIL_BYTES = 20_000
COLORS = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow", "pending": "dim"}


class JobProgress(NamedTuple):
    """Progress of a job."""

    stage: str
    share: float
    """Fraction of the tokens of all its stages."""
    val_loss: float | None
    tokens_per_second: float | None
    left_s: float | None


@contextmanager
def show_jobs(store: JobStore) -> Iterator[None]:
    """Show the table during the block; output of the block appears above it."""
    ended = threading.Event()
    with Live(build_table(store), console=Console(file=sys.stdout), auto_refresh=False) as live:

        def refresh() -> None:
            while not ended.wait(REFRESH_S):
                live.update(build_table(store), refresh=True)

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            live.update(build_table(store), refresh=True)


def build_table(store: JobStore) -> Table:
    """Build the table from the current files."""
    jobs = store.jobs()
    states = [store.status(job) for job in jobs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in COLORS if state in states)
    table = Table(title=f"{len(jobs)} jobs: {counts}", title_justify="left", caption="Ctrl-C saves and stops")
    for name, justify in zip(
        ("run", "status", "stage", "done", "val loss", "tokens/s", "left"), "lllrrrr", strict=True
    ):
        table.add_column(name, justify={"l": "left", "r": "right"}[justify], overflow="fold")  # pyright: ignore
    for job, state in zip(jobs, states, strict=True):
        course = read_progress(store, job) if state != "pending" else None
        error = f": {store.error(job)}" if state == "failed" else ""
        cells = [NOTHING] * 5 if course is None else _cells(course, state)
        table.add_row(job.run, Text(f"{state}{error}", style=COLORS[state]), *cells)
    return table


def _cells(course: JobProgress, state: str) -> list[str]:
    return [
        course.stage,
        f"{course.share:.0%}",
        NOTHING if course.val_loss is None else f"{course.val_loss:.3f}",
        NOTHING if course.tokens_per_second is None else f"{course.tokens_per_second:,.0f}",
        show_time(course.left_s) if state == "running" else NOTHING,
    ]


def read_progress(store: JobStore, job: Job) -> JobProgress | None:
    """Read the progress of a job from the end of its metrics; None: it has not started."""
    rows = _last_rows(store, job)
    if not rows or rows[-1].get("stage") not in job.stage_tokens:
        return None
    stage, names = str(rows[-1]["stage"]), list(job.stage_tokens)
    before = sum(job.stage_tokens[name] for name in names[: names.index(stage)])
    done, total = before + rows[-1]["tokens"] - job.shared_tokens.get(stage, 0), sum(job.stage_tokens.values())
    speed = _last(rows, "perf/tokens_per_second")
    return JobProgress(stage, done / total, _last(rows, "val/loss"), speed, (total - done) / speed if speed else None)


def _last_rows(store: JobStore, job: Job) -> list[dict[str, Any]]:
    try:
        with (store.run_dir(job) / "metrics.jsonl").open("rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - TAIL_BYTES))
            lines = handle.read().splitlines()
    except OSError:
        return []
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # cut off at the start, or partly written
            continue
        if isinstance(row, dict) and isinstance(row.get("tokens"), int):
            rows.append(row)
    return rows


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    return next((row[key] for row in reversed(rows) if row.get(key) is not None), None)
