"""Format numbers and tables: three digits and a unit, or a dash for a missing value."""

NOTHING = "-"


def show_count(value: float | None) -> str:
    """Write a number of parameters or tokens: 1.05M."""
    return _with_unit(value, (("B", 1e9), ("M", 1e6), ("k", 1e3)))


def show_flops(value: float | None) -> str:
    """Write an amount of arithmetic: 6.53G."""
    return _with_unit(value, (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)))


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


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Format a Markdown table that is aligned in plain text: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        first, *others = cells
        aligned = [first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))]
        return f"| {' | '.join(aligned)} |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (n + 1) + ":" for n in widths[1:])]) + "|"
    return [line(header), rule, *(line(row) for row in rows)]


def _with_unit(value: float | None, units: tuple[tuple[str, float], ...]) -> str:
    if value is None:
        return NOTHING
    for unit, factor in units:
        if value >= factor * 0.9995:  # 999,950 is 1.00M, not 1000k
            return f"{value / factor:#.3g}".rstrip(".") + unit
    return f"{value:.0f}"
