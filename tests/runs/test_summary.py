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
def test_sittings_under_different_versions_are_equal_to_neither(before: str, now: str, said: str) -> None:
    assert join_values(before, now) == said
