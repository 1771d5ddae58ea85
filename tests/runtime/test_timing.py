"""Timing of alternating actions."""

import time

import pytest

from src.runtime.timing import median_times
from tests.contract.small import CPU


def test_median_times_alternates_the_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = [0.0], list[str]()

    def action(name: str, durations: list[float]) -> None:
        turns.append(name)
        clock[0] += durations[turns.count(name) - 1]

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    first, second = (lambda: action("a", [50, 1, 9, 2])), (lambda: action("b", [50, 3, 3, 4]))
    assert median_times([first, second], CPU, seconds=0) == [2, 3]
    assert "".join(turns) == "abababab"
