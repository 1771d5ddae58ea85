"""The parallel map keeps the order, starts processes only for long work, and reads few items ahead."""

import os

import pytest

from src.data import parallel_map


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


@pytest.mark.parametrize("alone_s", [0.0, 60.0])
def test_order_is_kept_with_and_without_processes(alone_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_map, "SERIAL_SECONDS", alone_s)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    squares, pids = zip(*parallel_map.parallel_map(square, range(20)), strict=True)
    assert squares == tuple(number * number for number in range(20))
    assert (len(set(pids)) > 1) == (alone_s == 0)


def test_only_a_few_items_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_map, "SERIAL_SECONDS", 0.0)
    numbers = iter(range(100))
    for _ in zip(range(10), parallel_map.parallel_map(square, numbers), strict=False):
        pass
    assert next(numbers) <= 11 + 2 * parallel_map.MAX_WORKERS + 1


def test_batches_are_limited_by_count_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_map, "BATCH_ITEMS", 3)
    monkeypatch.setattr(parallel_map, "BATCH_CHARACTERS", 10)
    assert list(parallel_map.group_into_batches(["a", "b", "c", "d" * 10, "e" * 6, "f" * 6, "g"], len)) == [
        ["a", "b", "c"],
        ["d" * 10],
        ["e" * 6, "f" * 6],
        ["g"],
    ]
    assert not list(parallel_map.group_into_batches([], len))
