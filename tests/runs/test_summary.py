"""The contract of a run that was resumed by another version."""

import pytest

from src.runs.summary import join_values


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("a", "a", "a"),
        ("a", "b", "a, then b"),
        ("a, then b", "b", "a, then b"),
        ("a, then b", "c", "a, then b, then c"),
    ],
)
def test_a_resumed_run_records_both_versions(before: str, now: str, expected: str) -> None:
    assert join_values(before, now) == expected
