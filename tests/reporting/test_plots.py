import math

import numpy as np
import pytest
from matplotlib.text import Annotation

from src.reporting import load_metrics, load_runs, plot_loss, plot_speed
from src.reporting.plots import AXES, _loss_range, build_figures, to_png


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def dashed(axes) -> list[float]:
    return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_a_panel_a_stage_with_training_and_validation(four):
    """The validation before the first step is left out: tokens start at 0, which a log axis has not."""
    figure = plot_loss(load_runs(four.sweep), load_metrics(four.sweep), "tokens")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["language", "code"]
    lengths = sorted(np.size(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() == "-")
    assert lengths == [10] * 4 + [150] * 4


@pytest.mark.parametrize("axis", AXES)
def test_every_axis(four, axis):
    figure = plot_loss(load_runs(four.sweep), load_metrics(four.sweep), axis)
    assert AXES[axis] in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_xscale() == ("linear" if axis == "wall_time_s" else "log")


def test_references_are_dashed_and_labelled(four):
    figure = plot_loss(load_runs(four.sweep), load_metrics(four.sweep), "tokens")
    language, code = figure.axes
    floor = 0.62 * math.log(2) * 3.2
    assert [pytest.approx(level) for level in dashed(language)] == [math.log(4096), 6.1, floor]
    assert len(dashed(code)) == 2
    shown = texts(figure)
    assert {"unigram 6.10", "uniform 8.32", f"entropy floor {floor:.2f}"} <= set(shown)
    assert language.get_ylim()[0] < floor and language.get_ylim()[1] > math.log(4096)


def test_a_reference_far_from_the_curves_does_not_squash_them():
    low, high = _loss_range([1.0, 1.1], [math.log(4096), 1.2])
    assert low < 1.0 and 1.2 < high < 1.5


def test_final_losses_are_labelled_and_never_averaged_over_contracts(builder):
    builder.add("dense", level=2.0)
    builder.add("dense", seed=5, level=3.0, contract={"seq_len": 64})
    shown = texts(plot_loss(load_runs(builder.sweep), load_metrics(builder.sweep), "tokens"))
    assert "dense (A) 2.01" in shown and "dense (B) 3.06" in shown


def test_labels_keep_their_distance(four):
    figure = plot_loss(load_runs(four.sweep), load_metrics(four.sweep), "tokens")
    heights = sorted(text.xy[1] for text in figure.axes[0].texts if isinstance(text, Annotation))
    assert len(heights) == 7 and np.diff(heights).min() > 0.05 and heights[0] >= 0


def test_a_row_a_size(builder):
    builder.add("dense")
    builder.add("dense", size="micro")
    runs = load_runs(builder.sweep)
    figure = plot_loss(runs, load_metrics(builder.sweep))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["language, micro", "code, micro", "language, nano", "code, nano"]


def test_unfinished_runs_are_drawn_and_marked(four):
    four.ledger(next((four.root / "runs").glob("moe-*")).name, "failed", "boom")
    figure = plot_loss(load_runs(four.sweep), load_metrics(four.sweep), "tokens")
    (legend,) = figure.legends
    assert "did not finish" in [text.get_text() for text in legend.get_texts()]


def test_an_architecture_has_one_colour_everywhere(four):
    runs = load_runs(four.sweep)
    curve = plot_loss(runs, load_metrics(four.sweep)).axes[0].lines[1].get_color()
    assert plot_speed(runs).axes[0].patches[0].get_facecolor() == pytest.approx((0, 0x72 / 255, 0xB2 / 255, 1))
    assert curve == "#0072B2"


def test_speed_and_memory_with_their_values(four):
    figure = plot_speed(load_runs(four.sweep))
    assert "9,000" in texts(figure) and "700 MB" in texts(figure)
    assert figure.get_suptitle() == "Speed and memory on cpu, 2 threads"


def test_speed_says_what_was_not_measured_and_what_is_not_comparable(builder):
    stages = {"final": {"tokens_per_second": 10.0, "peak_memory_bytes": None}}
    builder.add("dense", summary=stages)
    builder.add("moe", summary={"environment": {"device": "cuda"}})
    figure = plot_speed(load_runs(builder.sweep))
    assert "not measured" in texts(figure) and "not comparable" in figure.get_suptitle()


def test_figures_of_nothing_yet(builder):
    builder.plan("dense-x", "dense")
    figures = build_figures(load_runs(builder.sweep), load_metrics(builder.sweep))
    assert list(figures) == ["loss_vs_tokens.png", "loss_vs_flops.png", "loss_vs_time.png", "speed.png"]
    assert all(to_png(figure).startswith(b"\x89PNG") for figure in figures.values())


def test_training_without_any_validation_yet(builder):
    run_dir = builder.add("dense", status="running", stages=())
    (run_dir / "metrics.jsonl").write_text(
        '{"stage": "language", "step": 1, "tokens": 5, "flops": 5, "wall_time_s": 1, "train/loss": 8}\n'
    )
    figures = build_figures(load_runs(builder.sweep), load_metrics(builder.sweep))
    assert all(to_png(figure) for figure in figures.values())


def test_a_run_that_diverged_is_no_obstacle(builder):
    run_dir = builder.add("dense", status="failed", stages=())
    row = '{"stage": "language", "step": %d, "tokens": %d, "flops": 5, "wall_time_s": 1, "val/loss": NaN}\n'
    (run_dir / "metrics.jsonl").write_text(row % (1, 5) + row % (2, 9))
    figures = build_figures(load_runs(builder.sweep), load_metrics(builder.sweep))
    assert all(to_png(figure) for figure in figures.values())
