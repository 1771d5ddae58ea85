import json
import math

import numpy as np
import pytest
from matplotlib.text import Annotation

from src.reporting import draw, load_metrics, load_runs, loss_chart, speed_chart
from src.reporting.plots.charts import build_charts
from src.reporting.plots.figure import loss_range, to_png
from src.reporting.plots.style import GRAY
from src.reporting.plots.training import EXPERT_BALANCE, expert_chart


def plot_loss(directory, x="tokens"):
    return draw(loss_chart(load_runs(directory), load_metrics(directory)), x)


def plot_experts(directory):
    return draw(expert_chart(load_runs(directory), load_metrics(directory)))


def images(directory) -> dict[str, bytes]:
    """Read every image of a report."""
    charts = build_charts(load_runs(directory), load_metrics(directory), directory)
    return {name: to_png(draw(chart, x)) for chart in charts for name, x in chart.files.items()}


def read_texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def read_dashed_lines(axes) -> list[float]:
    return [line.get_ydata()[0] for line in axes.lines if line.get_color() == GRAY]


def write_balance(run_dir, layers, stages=("language",), steps=3):
    """Append rows of experts: layer n has the value step * (n + 1) / 10 for every measure."""
    with (run_dir / "metrics.jsonl").open("a") as file:
        for stage in stages:
            for step in range(1, steps + 1):
                row = {"stage": stage, "step": step, "tokens": 100 * step, "flops": 1, "wall_time_s": step}
                values = {
                    f"moe/layer_{n:02}/{name}": step * (n + 1) / 10 for n in range(layers) for name in EXPERT_BALANCE
                }
                file.write(json.dumps(row | values) + "\n")


def test_each_stage_has_a_panel_with_training_and_validation(four):
    """The validation before the first step is left out: its tokens are 0, which a log axis cannot show."""
    figure = plot_loss(four.sweep)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["language", "code"]
    lengths = sorted(np.size(line.get_xdata()) for line in figure.axes[0].lines if line.get_color() != GRAY)
    assert lengths == [10] * 4 + [150] * 4


@pytest.mark.parametrize(
    ("axis", "label"), [("tokens", "tokens"), ("flops", "training FLOPs"), ("wall_time_s", "wall-clock time")]
)
def test_every_axis_is_available(four, axis, label):
    figure = plot_loss(four.sweep, axis)
    assert label in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_xscale() == ("linear" if axis == "wall_time_s" else "log")


def test_references_are_dashed_and_labelled(four):
    figure = plot_loss(four.sweep)
    language, code = figure.axes
    floor = 0.62 * math.log(2) * 3.2
    assert [pytest.approx(level) for level in read_dashed_lines(language)] == [math.log(4096), 6.1, floor]
    assert len(read_dashed_lines(code)) == 2
    shown = read_texts(figure)
    assert {"unigram 6.10", "uniform 8.32", f"entropy floor {floor:.2f}"} <= set(shown)
    assert language.get_ylim()[0] < floor and language.get_ylim()[1] > math.log(4096)


def test_a_reference_far_from_the_curves_does_not_flatten_them():
    low, high = loss_range([1.0, 1.1], [math.log(4096), 1.2])
    assert low < 1.0 and 1.2 < high < 1.5


def test_final_losses_are_labelled_and_never_averaged_over_contracts(builder):
    builder.add("dense", level=2.0)
    builder.add("dense", seed=5, level=3.0, contract={"seq_len": 64})
    figure = plot_loss(builder.sweep)
    titles = [f"{stage}, nano, contract {letter}" for letter in "AB" for stage in ("language", "code")]
    assert [axes.get_title(loc="left") for axes in figure.axes] == titles
    shown = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert "dense 2.01" in shown[0] and "dense 3.06" in shown[2]


def test_labels_do_not_overlap(four):
    figure = plot_loss(four.sweep)
    heights = sorted(text.xy[1] for text in figure.axes[0].texts if isinstance(text, Annotation))
    assert len(heights) == 7 and np.diff(heights).min() > 0.05 and heights[0] >= 0


def test_each_size_has_a_row(builder):
    builder.add("dense")
    builder.add("dense", size="micro")
    figure = plot_loss(builder.sweep)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["language, micro", "code, micro", "language, nano", "code, nano"]


def test_unfinished_runs_are_drawn_and_marked(four):
    four.job_record(next((four.root / "runs").glob("moe-*")).name, "failed", "boom")
    (legend,) = plot_loss(four.sweep).legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "mamba", "hybrid", "moe (failed)"]


def test_an_architecture_has_the_same_color_in_all_figures(four):
    curve = plot_loss(four.sweep).axes[0].lines[1].get_color()
    assert draw(speed_chart(load_runs(four.sweep))).axes[0].patches[0].get_facecolor() == pytest.approx(
        (0, 0x72 / 255, 0xB2 / 255, 1)
    )
    assert curve == "#0072B2"


def test_speed_and_memory_show_their_values(four):
    figure = draw(speed_chart(load_runs(four.sweep)))
    assert "9,000" in read_texts(figure) and "700 MB" in read_texts(figure)
    assert figure.get_suptitle() == "Speed and memory on cpu, 2 threads"


def test_speed_names_missing_and_incomparable_measurements(builder):
    stages = {"final": {"tokens_per_second": 10.0, "peak_memory_bytes": None}}
    builder.add("dense", summary=stages)
    builder.add("moe", summary={"environment": {"device": "cuda"}})
    figure = draw(speed_chart(load_runs(builder.sweep)))
    assert "not measured" in read_texts(figure) and "not comparable" in figure.get_suptitle()


def test_figures_without_finished_steps_are_drawn(builder):
    builder.plan("dense-x", "dense")
    assert images(builder.sweep) == {}
    for figure in (plot_loss(builder.sweep), draw(speed_chart(load_runs(builder.sweep))), plot_experts(builder.sweep)):
        assert "nothing measured yet" in figure.texts[0].get_text() and to_png(figure).startswith(b"\x89PNG")


def test_training_without_validation_is_drawn(builder):
    run_dir = builder.add("dense", status="running", stages=())
    (run_dir / "metrics.jsonl").write_text(
        '{"stage": "language", "step": 1, "tokens": 5, "flops": 5, "wall_time_s": 1, "train/loss": 8}\n'
    )
    assert all(images(builder.sweep).values())


def test_a_diverged_run_is_drawn(builder):
    run_dir = builder.add("dense", status="failed", stages=())
    row = '{"stage": "language", "step": %d, "tokens": %d, "flops": 5, "wall_time_s": 1, "val/loss": NaN}\n'
    (run_dir / "metrics.jsonl").write_text(row % (1, 5) + row % (2, 9))
    assert all(images(builder.sweep).values())


def test_balance_is_a_mean_over_layers_with_a_band(builder):
    """Layers with 0.1, 0.2 and 0.3 times the step give a mean of 0.2 and a band from 0.1 to 0.3."""
    builder.add("dense", stages=("language",))
    run_dir = builder.add("moe", stages=("language",))
    (run_dir / "metrics.jsonl").write_text("")
    write_balance(run_dir, layers=3)
    figure = plot_experts(builder.sweep)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [axis.label for axis in EXPERT_BALANCE.values()]
    assert figure.axes[0].get_ylabel() == "language"
    for axes in figure.axes:
        (line,) = axes.lines
        assert line.get_xdata() == pytest.approx([100, 200, 300])
        assert line.get_ydata() == pytest.approx([0.2, 0.4, 0.6])
        (band,) = axes.collections
        low_and_high = {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices).round(6).tolist()}
        assert {(100, 0.1), (100, 0.3), (300, 0.3), (300, 0.9)} <= low_and_high
        assert axes.get_ylim()[0] == 0
    assert figure.axes[0].get_ylim()[1] == pytest.approx(1.04), "entropies of all reports have one scale"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["moe"]


def test_balance_has_a_row_per_size_and_stage_and_accepts_other_depths(builder):
    for size, layers in (("nano", 2), ("micro", 4)):
        write_balance(builder.add("moe", size=size), layers, ("language", "code"))
    write_balance(builder.add("moe", seed=1), 2, ("language", "code"))
    figure = plot_experts(builder.sweep)
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["language, micro", "code, micro", "language, nano", "code, nano"]
    assert [len(axes.lines) for axes in figure.axes] == [1] * 16, "the mean over seeds"
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.25, 0.5, 0.75])
    assert figure.axes[-1].lines[0].get_ydata() == pytest.approx([0.15, 0.3, 0.45])


@pytest.mark.slow
def test_the_expert_figure_exists_only_for_runs_with_experts(four):
    write_balance(next((four.root / "runs").glob("moe-*")), layers=2)
    assert images(four.sweep)["expert_balance"].startswith(b"\x89PNG")


def test_balance_without_rows_is_drawn(builder):
    builder.add("dense")
    figure = plot_experts(builder.sweep)
    assert "nothing measured yet" in figure.texts[0].get_text()
