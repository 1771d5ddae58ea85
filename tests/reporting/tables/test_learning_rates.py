"""The table of a learning rate search."""

from pathlib import Path

import pytest

from src.reporting.data.artifacts import next_rate_fails
from src.reporting.tables.learning_rates import learning_rate_tables

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("losses", "fails"),
    [
        ([2.3, 2.2, 2.1], False),  # no rate above the best was tried
        ([2.3, 2.2, 2.3, 2.9], False),  # a failed rate that is not next to the best
        ([2.3, 2.2, 2.41], False),
        ([2.3, 2.2, 2.43], True),
        ([2.3, 2.2, None], True),
        ([None, 2.2, 2.3], False),
        ([None, None], False),
    ],
)
def test_a_failed_rate_next_to_the_best_is_detected(losses: list[float | None], fails: bool) -> None:
    tried = [(2.0**index, loss) for index, loss in enumerate(losses)]
    assert next_rate_fails(tried) is next_rate_fails(tried[::-1]) is fails


def test_the_table_marks_architectures_whose_next_rate_fails() -> None:
    (titled,) = learning_rate_tables(ROOT / "docs" / "results" / "micro-language")
    assert titled.table.columns[-1].name == "next fails"
    assert {row[0] for row in titled.table.rows if row[-1] == "yes"} == {"dense", "moe"}
