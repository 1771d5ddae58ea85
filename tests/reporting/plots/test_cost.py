"""Quality against cost: means with intervals, the front, and costs that say nothing."""

from statistics import fmean

import pytest

from src.reporting import draw, load_runs
from src.reporting.plots.cost import cost_chart, name_corners, pareto_front
from src.reporting.plots.figure import to_png
from src.reporting.plots.summary import summarize_chart
from src.reporting.statistics.significance import mean_and_half_width
from src.reporting.statistics.verdicts import compare_headlines
from tests.reporting.plots.test_verdict import SEEDS, add_seeds


def trace(chart, name, panel=0):
    (found,) = [each for each in chart.panels[panel].traces if each.name == name]
    return found


def test_a_point_is_a_mean_with_its_interval_at_its_cost(builder):
    runs = add_seeds(builder, SEEDS)
    chart = cost_chart(runs)
    assert [panel.title for panel in chart.panels] == ["language", "code"] and list(chart.x) == [
        "flops",
        "memory",
        "time",
    ]
    seeds = compare_headlines(runs)[0].comparison.stable["mamba"]
    mean, half = mean_and_half_width(seeds)
    assert half is not None
    mamba = trace(chart, "mamba")
    assert mamba.y[""] == pytest.approx([mean]) and mamba.high[""] == pytest.approx([mean + half])
    assert mamba.x[""]["flops"] == [150 * 2048 * 6e6]
    assert mamba.x[""]["memory"] == [700_000_000]
    assert mamba.x[""]["time"] == [pytest.approx(150 * 2048 / 4000)]


def test_the_front_has_what_no_other_is_cheaper_and_lower_than(builder):
    assert pareto_front([(1, 9), (2, 5), (3, 6), (4, 4), (2, 7)]) == ([1, 2, 4], [9, 5, 4])
    chart = cost_chart(add_seeds(builder, SEEDS))
    fronts = {next(iter(each.x[""])): each for each in chart.panels[0].traces if not each.architecture}
    # By time, dense is fastest, and hybrid lower: mamba is slower and higher. By FLOPs, all cost the same.
    assert fronts["time"].x[""]["time"] == pytest.approx([150 * 2048 / speed for speed in (9000, 6000)])
    assert len(set(fronts["time"].y[""])) == 2 and len(set(fronts["flops"].y[""])) == 1


def test_time_is_left_out_with_the_reason_where_jobs_shared_the_machine(builder):
    runs = add_seeds(builder, SEEDS, contract={"host_shared": True})
    chart = cost_chart(runs)
    assert "time" not in chart.x and "training time: jobs shared the machine" in chart.note
    assert set(chart.files) == {"quality_vs_flops", "quality_vs_memory"}


@pytest.mark.parametrize("budget", ["flops", "time"])
def test_what_the_budget_makes_equal_is_left_out(builder, budget):
    runs = add_seeds(builder, {"dense": (2.5, 2.51), "mamba": (2.3, 2.31)}, contract={"training.budget": budget})
    chart = cost_chart(runs)
    assert budget not in chart.x and "is equal by the budget" in chart.note


def test_an_unstable_architecture_has_its_seeds_and_no_mean(builder):
    chart = cost_chart(add_seeds(builder, SEEDS | {"moe": (2.4, 2.41, 3.4)}))
    moe = trace(chart, "moe")
    assert "" not in moe.y and len(moe.seeds[""]) == 3 and "unstable" in chart.note
    front = next(each for each in chart.panels[0].traces if not each.architecture)
    assert min(front.y[""]) == fmean(trace(chart, "hybrid").y[""])


def test_one_seed_has_no_interval_and_is_drawn(four):
    chart = cost_chart(load_runs(four.sweep))
    assert trace(chart, "dense").y[""] and not trace(chart, "dense").high
    figure = draw(chart, "time")
    assert to_png(figure).startswith(b"\x89PNG")
    assert {text.get_text() for text in figure.axes[0].texts} == {"dense", "mamba", "moe", "hybrid"}


def test_one_architecture_has_no_chart(builder):
    builder.add("dense")
    assert cost_chart(load_runs(builder.sweep)).is_empty


def test_the_text_has_every_architecture_with_its_value_and_cost(four):
    chart = cost_chart(load_runs(four.sweep))
    text = summarize_chart(chart)
    assert "(700M)" in summarize_chart(chart, "memory")
    assert "the lowest first: moe 0.946" in text and text.count("hybrid") == 2 and "(1.84T)" in text


def test_names_stand_where_they_cover_no_other_name_or_point():
    alone = {"dense": (1.0, 1.0), "mamba": (9.0, 9.0)}
    assert name_corners(alone) == {"dense": "top right", "mamba": "top right"}
    crowded = {"window_attention": (3.28, 1.454), "dense_qk_norm": (3.46, 1.454), "dense": (3.46, 1.470)}
    corners = name_corners({**crowded, "hybrid": (3.44, 1.357), "mamba": (3.72, 1.384)})
    assert corners["dense_qk_norm"] == "top right"  # dense_qk_norm to the left would lie over window_attention
    beside = name_corners({"moe": (1.0, 2.0), "dense": (1.1, 2.0), "mamba": (9.0, 1.0)})
    assert beside == {"moe": "top right", "dense": "bottom right", "mamba": "top right"}
