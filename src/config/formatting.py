"""Format numbers and tables: three digits and a unit, or a dash for a missing value."""

import shutil
import sys
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
NOTHING = "-"


def show_count(value: float | None) -> str:
    """Write a number of parameters or tokens: 1.05M."""
    return _with_unit(value, (("B", 1e9), ("M", 1e6), ("k", 1e3)))


def show_flops(value: float | None) -> str:
    """Write an amount of arithmetic: 6.53G, and from 1e15 on as a power of ten: 6.53e18."""
    if value is not None and value >= 9.995e14:
        return f"{value:.3g}".replace("e+", "e")
    return _with_unit(value, (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)))


def count_of(n: int, noun: str) -> str:
    """Write a number with its noun: 1 thread, 2 threads."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def show_bytes(value: float | None) -> str:
    """Write an amount of memory in GB (1e9 bytes), or in MB or kB below one."""
    if value is None:
        return NOTHING
    if value >= 1e9:
        return f"{value / 1e9:.2f} GB"
    return f"{value / 1e6:.0f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def show_time(seconds: float | None) -> str:
    """Write a duration: 42 s, 3m 07s, 2h 05m, 23d 03h."""
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 48 else f"{hours // 24}d {hours % 24:02d}h"


def terminal_width() -> int | None:
    """Return the columns of the terminal; None if the output is no terminal and needs no limit."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def columns_to_drop(widths: Mapping[Key, int], droppable: Sequence[Key], room: int | None, gap: int = 2) -> list[Key]:
    """Return the columns to leave out so that a table fits, in the order of `droppable`.

    widths: of the columns, by name. room: columns of the terminal; None: no limit. gap: columns between two of them.
    """
    dropped: list[Key] = []
    for name in (name for name in droppable if name in widths):
        kept = [width for key, width in widths.items() if key not in dropped]
        if room is None or sum(kept) + gap * (len(kept) - 1) <= room:
            break
        dropped.append(name)
    return dropped


def table(
    header: list[str], rows: list[list[str]], droppable: Sequence[str] = (), room: int | None = None
) -> list[str]:
    """Format a Markdown table that is aligned in plain text: the first column to the left, the others to the right.

    droppable, room: as for `columns_to_drop`; a line below the table names what was left out.
    """
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    order = [index for name in droppable for index, column in enumerate(header) if column == name]
    if dropped := columns_to_drop(dict(enumerate(widths)), order, room and room - 4, gap=3):
        kept = [index for index in range(len(header)) if index not in dropped]
        cut = [[row[index] for index in kept] for row in [header, *rows]]
        return [*table(cut[0], cut[1:]), f"Left out for width: {', '.join(header[index] for index in dropped)}"]

    def line(cells: list[str]) -> str:
        first, *others = cells
        aligned = [first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))]
        return f"| {' | '.join(aligned)} |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (n + 1) + ":" for n in widths[1:])]) + "|"
    return [line(header), rule, *(line(row) for row in rows)]


def fit_text(lines: Sequence[str], room: int | None) -> str:
    """Join lines and break those that are longer than the terminal between words; tables stay as they are."""
    if room is None:
        return "\n".join(lines)
    broken: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        fill = partial(textwrap.fill, width=room, break_long_words=False, break_on_hyphens=False)
        is_text = len(line) > room and not line.startswith("|")
        broken.append(fill(line.strip(), initial_indent=indent, subsequent_indent=f"{indent}  ") if is_text else line)
    return "\n".join(broken)


def _with_unit(value: float | None, units: tuple[tuple[str, float], ...]) -> str:
    if value is None:
        return NOTHING
    for unit, factor in units:
        if value >= factor * 0.9995:  # 999,950 is 1.00M, not 1000k
            return f"{value / factor:#.3g}".rstrip(".") + unit
    return f"{value:.0f}"
