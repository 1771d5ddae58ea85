"""Formatting of numbers for people."""

import pytest

from src.config.formatting import count_of, show_bytes, show_count, show_flops, show_time, table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (999, "999"),
        (999_949_000, "1.00B"),
        (1_000_000, "1.00M"),
        (12_345_678, "12.3M"),
        (137_000_000, "137M"),
        (1.5e9, "1.50B"),
    ],
)
def test_counts(value: float | None, shown: str) -> None:
    assert show_count(value) == shown


def test_a_noun_is_singular_for_one() -> None:
    assert [count_of(n, "run") for n in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]


def test_flops() -> None:
    assert [show_flops(value) for value in (None, 0, 2e6, 6.53e9, 9.99e14)] == ["-", "0", "2.00M", "6.53G", "999T"]
    assert [show_flops(value) for value in (9.996e14, 1.2e16, 6.53e18)] == ["1e15", "1.2e16", "6.53e18"]


def test_bytes_and_times() -> None:
    assert [show_bytes(value) for value in (None, 4e4, 7e8, 2.345e9)] == ["-", "40 kB", "700 MB", "2.35 GB"]
    times = [show_time(value) for value in (None, 0.04, 9.96, 59.7, 61, 3725, 555.45 * 3600)]
    assert times == ["-", "0.0 s", "10 s", "1m 00s", "1m 01s", "1h 02m", "23d 03h"]


@pytest.mark.parametrize(("room", "header"), [(None, "abcbd"), (21, "abcbd"), (20, "abbd"), (12, "ad"), (3, "ad")])
def test_a_table_leaves_out_columns_until_it_fits(room: int | None, header: str) -> None:
    lines = table([*"abcbd"], [[*"12345"]], ("c", "b", "missing"), room)
    assert lines[0].replace("|", "").replace(" ", "") == header
    dropped = [line for line in lines if "Left out" in line]
    assert dropped == ([f"Left out for width: {'c' if header == 'abbd' else 'c, b, b'}"] if header != "abcbd" else [])
