"""The contract of a run that was made in several sittings."""

import pytest

from src.runs.summary import join_values


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("a", "a", "a"),
        ("a", "b", "a, then b"),
        ("a, then b", "b", "a, then b"),
        ("a, then b", "c", "a, then b, then c"),
    ],
)
def test_a_resumed_run_records_both_versions(before: str, now: str, said: str) -> None:
    assert join_values(before, now) == said
