"""The chart and the table of a ladder: results, predicted losses, and where the order changes."""

from pathlib import Path

import numpy as np
import pytest

from src.reporting import load_runs, write_report
from src.reporting.plots.ladder import _changes, ladder_chart
from src.reporting.tables.secondary import further_tables
from tests.ladders import write_ladder

ORDER = ("Loss by training FLOPs, predicted", "Measurements", "Quality against cost")


@pytest.mark.slow
def test_a_ladder_has_a_chart_of_predicted_losses_and_a_table_of_its_laws(tmp_path: Path) -> None:
    sweep = write_ladder(tmp_path / "outputs")
    runs = load_runs(sweep)
    page = write_report(sweep).read_text("utf-8")
    places = [page.index(f"<h2>{title}" if title == "Measurements" else f"<h3>{title}") for title in ORDER]
    assert places == sorted(places), "the chart that its runs are for is on the first screen"
    chart = ladder_chart(runs)
    points, line, *others = chart.panels[0].traces
    assert [trace.architecture for trace in others] == ["mamba", "mamba"] and not chart.marks, "mamba is always lower"
    assert len(points.y[""]) == 12 and points.x[""][""] == sorted(points.x[""][""])
    at, losses = np.array(line.x[""][""]), np.array(line.y[""])
    assert at[-1] == pytest.approx(100 * max(points.x[""][""] + others[0].x[""][""])) and (np.diff(losses) < 0).all()
    nearest = [losses[np.abs(np.log(at / x)).argmin()] for x in points.x[""][""]]
    assert all(low <= loss + 0.02 for low, loss in zip(nearest, points.y[""], strict=True)), "the best size is no worse"
    (table,) = [each.table for each in further_tables(runs) if each.title == "Laws of size and budget"]
    assert [row[0] for row in table.rows] == ["dense", "mamba"] and table.rows[0][-1].endswith("%")
    assert "Best size for equal FLOPs" not in [each.title for each in further_tables(runs)], "no FLOPs that all have"


@pytest.mark.slow
def test_sizes_with_equal_flops_have_a_table_of_the_best(tmp_path: Path) -> None:
    wide = {"language": 40, "language_quarter": 8, "language_sixteenth": 1}
    runs = load_runs(write_ladder(tmp_path / "outputs", sizes=("300k", "nano", "2m"), budgets=wide))
    (best,) = [each.table for each in further_tables(runs) if each.title == "Best size for equal FLOPs"]
    assert [row[0] for row in best.rows] == ["dense", "mamba"]
    by_parabola, by_law = float(best.rows[0][2].removesuffix("M")), float(best.rows[0][4].removesuffix("M"))
    assert 0.8 < by_law < 2.2 and by_parabola == pytest.approx(by_law, rel=0.3)


def test_runs_of_one_size_have_neither(four) -> None:
    runs = load_runs(four.sweep)
    assert ladder_chart(runs).is_empty
    assert not {"Laws of size and budget", "Best size for equal FLOPs"} & {each.title for each in further_tables(runs)}


def test_the_order_changes_where_the_lines_cross() -> None:
    places = np.geomspace(1, 100, 5)
    curves = {"dense": np.array([3.0, 2.0, 1.9, 1.8, 1.7]), "mamba": np.array([4.0, 3.0, 1.5, 1.4, 1.9])}
    assert _changes(curves, places) == pytest.approx([places[2], places[4]])
    assert _changes({"dense": curves["dense"]}, places) == []
