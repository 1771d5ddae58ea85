"""The matrix of pairs has the differences and results of the list of pairs."""

import pytest

from src.reporting import load_runs
from src.reporting.statistics.verdicts import compare_headlines
from src.reporting.tables.pairs import pair_tables
from tests.reporting.plots.test_verdict import SEEDS, add_seeds


def test_the_matrix_is_antisymmetric_and_agrees_with_the_verdict(builder):
    runs = add_seeds(builder, SEEDS)
    language, code, pairs = pair_tables(runs)
    assert (language.title, code.title) == ("Differences: language", "Differences: code") and pairs.is_folded
    names = [column.name for column in language.table.columns[1:]]
    comparison = compare_headlines(runs)[0].comparison
    assert names == [row[0] for row in language.table.rows] == list(comparison.stable)
    for pair in comparison.pairs:
        i, j = names.index(pair.better), names.index(pair.other)
        sign = "*" if pair.is_significant else ""
        assert language.table.rows[j][i + 1] == f"{pair.difference:+.3f}{sign}"
        assert float(language.table.rows[i][j + 1].strip("*")) == pytest.approx(-pair.difference, abs=5e-4)
        mark = language.table.marks[j, i + 1]
        assert (mark.kind == "") == pair.is_significant
        assert f"{pair.difference:.3f}±{pair.half_width:.3f}" in mark.title
    assert {pair.is_significant for pair in comparison.pairs} == {True, False}
    assert len(pairs.table.rows) == 6 and "*: significant" in code.note and not language.note


def test_equivalent_pairs_have_their_own_sign(builder):
    language, *_ = pair_tables(add_seeds(builder, SEEDS), margin=1.0)
    assert any(cell.endswith(" =") for row in language.table.rows for cell in row)


def test_without_a_verdict_there_is_no_matrix(four):

    assert pair_tables(load_runs(four.sweep)) == []
