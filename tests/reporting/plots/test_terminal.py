"""A chart in a terminal shows each mean within its interval, at its place on one scale."""

from src.reporting.plots.chart import Axis, Chart, Panel, Trace
from src.reporting.plots.terminal import LINE, MEAN, SEED, draw_text


def _trace(name: str, mean: float, half: float, seeds: list[float]) -> Trace:
    trace = Trace(name, y={"": [mean]}, low={"": [mean - half]}, high={"": [mean + half]}, seeds={"": seeds})
    trace.text[""] = f"{mean:.3f}"
    return trace


def test_draw_text() -> None:
    panel = Panel("language", [_trace("dense", 2.0, 0.5, [1.8, 2.2]), _trace("hybrid", 1.0, 0.0, [1.0])])
    chart = Chart("verdict", "", "", {"": Axis("bits per byte")}, {"": Axis("")}, {}, [panel, Panel("code")])
    _, title, dense, hybrid, axis, _, legend = draw_text(chart, width=60)
    assert all(mark in legend for mark in (MEAN, LINE, SEED))
    assert title == "language, bits per byte"
    assert hybrid.index(MEAN) < dense.index(LINE) < dense.index(MEAN) < dense.rindex(LINE)
    assert dense.count(SEED) == 2 and hybrid.count(LINE) == 0
    assert dense.endswith("2.000") and axis.split() == ["1.000", "2.500"]
    assert max(map(len, (dense, hybrid, axis))) <= 60


def test_equal_values_are_drawn() -> None:
    chart = Chart("x", "", "", {"": Axis("x")}, {"": Axis("")}, {}, [Panel("a", [_trace("dense", 1.0, 0.0, [1.0])])])
    assert any(MEAN in line for line in draw_text(chart))
