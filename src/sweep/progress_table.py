"""A live table of the jobs of a sweep in the terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from src.config.formatting import columns_to_drop
from src.runtime.background import repeat_in_background
from src.runtime.log import replace_control_chars
from src.sweep.job_store import JobStore
from src.sweep.progress import COLUMNS, JobProgress, SweepProgress, read_sweep, show_cells, show_totals

REFRESH_S = 1.0
COLORS = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow", "pending": "dim"}
BAR = 12
TEXTS = ("job", "phase")
"""Columns that are set to the left."""
DROPPED = ("tokens/s", "bar", "val loss", "elapsed")
"""The columns that a narrow terminal leaves out, in this order."""
GAP = 2
AROUND = 8
"""Lines of the screen that are not rows of the table: header, footer, and some lines of output above."""


@contextmanager
def show_jobs(store: JobStore) -> Iterator[None]:
    """Show the table during the block; output of the block appears above it."""
    console = Console(file=sys.stdout)

    def draw(hint: str = "Ctrl-C saves and stops") -> Group:
        return build_table(read_sweep(store), console.width, max(4, console.height - AROUND), hint)

    with Live(draw(), console=console, auto_refresh=False) as live:
        try:
            with repeat_in_background(lambda: live.update(draw(), refresh=True), REFRESH_S):
                yield
        finally:
            live.update(draw(""), refresh=True)


def build_table(progress: SweepProgress, width: int, rows: int, hint: str = "") -> Group:
    """Build the table, the errors and a line of totals.

    It has the columns that fit `width`, and at most `rows` jobs, those at work first. hint: a remark after the totals.
    """
    shown = _most_important(progress.jobs, rows)
    cells = dict(zip(COLUMNS, zip(COLUMNS, *map(show_cells, shown), strict=True), strict=True))
    widths = {name: max(map(len, column)) for name, column in cells.items()} | {"bar": BAR}
    dropped = columns_to_drop(widths, DROPPED, width, GAP)
    names = [name for name in (*COLUMNS[:2], "bar", *COLUMNS[2:]) if name not in dropped]
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in names:
        header, justify = ("", "left") if name == "bar" else (name, "left" if name in TEXTS else "right")
        table.add_column(header, justify=justify, no_wrap=True)
    for index, job in enumerate(shown, start=1):
        row: dict[str, Text | ProgressBar] = {name: Text(cells[name][index]) for name in names if name != "bar"}
        row["bar"] = ProgressBar(1.0, job.share, width=BAR)
        row["phase"] = Text(cells["phase"][index], style=COLORS[job.status])
        table.add_row(*(row[name] for name in names))
    lines = [_line(f"{job.name}: {job.error}", width, COLORS["failed"]) for job in shown if job.error]
    hidden = len(progress.jobs) - len(shown)
    totals = "; ".join([show_totals(progress), *([f"{hidden} not shown"] if hidden else [])])
    has_room = hint and len(totals) + len(hint) + 2 <= width
    return Group(table, *lines, _line(f"{totals}; {hint}" if has_room else totals, width))


def _most_important(jobs: list[JobProgress], rows: int) -> list[JobProgress]:
    """Return at most `rows` jobs in order: running and failed ones, then the next that wait, then the last done."""
    waiting = [job for job in jobs if job.status == "pending"]
    done = [job for job in jobs if job.status == "done"]
    first = [job for job in jobs if job.status not in ("pending", "done")]
    chosen = [*first, *waiting[: max(1, rows // 3)], *reversed(done), *waiting[max(1, rows // 3) :]][:rows]
    kept = {job.run for job in chosen}
    return [job for job in jobs if job.run in kept]


def _line(text: str, width: int, style: str = "") -> Text:
    """Return one line that ends with an ellipsis if it does not fit."""
    line = Text(replace_control_chars(text).replace("\n", " "), style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line
