import json
import math

import pytest
from scipy.stats import binomtest

from src.reporting import comparison_text, draw, load_metrics, load_runs, position_chart, recall_chart, write_report
from src.reporting.data.artifacts import load_context
from src.reporting.plots.charts import build_charts
from src.reporting.plots.context import beyond_chart, probe_chart
from src.reporting.plots.style import GRAY
from src.reporting.tables.comparison import comparison_table


def write_measurements(run_dir, level, stages=("language",), floor=True):
    """Add context measurements to a run; `level` sets loss and accuracy."""
    evaluation = {"format_version": 1, "stages": {}}
    for stage in stages:
        positions = {"to": [1, 2, 4], "n": [9, 9, 18], "loss": [level + 2, level + 1, None]}
        context = {"positions": positions | ({"floor": [0.5, 0.4, 0.3]} if floor else {})}
        if floor:
            recall = {"to": [2, 8, 16], "n": [9, 40, 10], "loss": [0.1] * 3, "accuracy": [0.0, level / 4, level / 8]}
            hidden = {"n": 30, "loss": 4.0, "accuracy": 0.05}
            context |= {"above_floor_bits_per_byte": level / 10, "recall": recall, "hidden": hidden}
        beyond = {"to": [1, 2, 4, 8], "n": [9, 9, 18, 36], "loss": [level + 2, level + 1, level, level + 3]}
        probes = {"copying": {"to": [16, 32], "n": [9, 9], "accuracy": [0.1, 0.0], "gain": [level, level / 2]}}
        evaluation["stages"][stage] = {"corpus": stage, "context": context, "beyond": beyond, "probes": probes}
    (run_dir / "evaluation.json").write_text(json.dumps(evaluation))


def read_curves(axes, style: str) -> list[list[list[float]]]:
    """Return x and y of the lines with a given style; "-" are those of architectures, whatever their dash."""

    def style_of(line) -> str:
        is_own = line.get_color() != GRAY and line.get_linestyle() != ":"
        return "-" if is_own else line.get_linestyle()

    return [[list(line.get_xdata()), list(line.get_ydata())] for line in axes.lines if style_of(line) == style]


@pytest.fixture
def measured(builder):
    """Two seeds of dense and one of mamba, evaluated on generated text in the first stage."""
    for architecture, seed, level in (("dense", 0, 1.0), ("dense", 1, 3.0), ("mamba", 0, 2.0)):
        write_measurements(builder.add(architecture, seed), level)
    return builder


def test_a_line_is_the_mean_over_seeds_with_a_band(measured):
    figure = draw(position_chart(load_runs(measured.sweep)))
    (language,) = figure.axes
    dense, mamba = read_curves(language, "-")
    assert dense[0] == [1, 2, 4] and dense[1][:2] == [4, 3] and math.isnan(dense[1][2])
    assert mamba[1][:2] == [4, 3]
    low, high = language.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (2, 5)
    assert [[1, 2, 4], [0.5, 0.4, 0.3]] in read_curves(language, "--")
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "dense", "mamba", "floor of the same tokens",
    }  # fmt: skip


def test_recall_hides_ranges_with_few_names_and_names_them(measured):
    (language,) = draw(recall_chart(load_runs(measured.sweep))).axes
    assert read_curves(language, "-") == [[[8, 16], [0.5, 0.25]], [[8, 16], [0.5, 0.25]]]
    assert [y for _, y in read_curves(language, ":")] == [[0.05, 0.05]] * 2
    assert language.get_xscale() == "log"


def test_a_share_of_names_has_an_interval_between_0_and_1(builder):
    write_measurements(builder.add("dense"), 4.0)
    (trace,) = (each for each in recall_chart(load_runs(builder.sweep)).panels[0].traces if each.level is None)
    expected = [binomtest(hits, n).proportion_ci(method="wilson") for hits, n in ((40, 40), (5, 10))]
    assert trace.y[""] == [1.0, 0.5]
    assert trace.low[""] == pytest.approx([each.low for each in expected], abs=1e-6)
    assert trace.high[""] == pytest.approx([each.high for each in expected], abs=1e-6)


def test_contracts_are_not_averaged(builder):
    write_measurements(builder.add("dense"), 1.0, ("language", "code"))
    write_measurements(builder.add("dense", 5, contract={"seq_len": 64}), 3.0)
    figure = draw(position_chart(load_runs(builder.sweep)))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        *(f"{stage}, nano, contract A" for stage in ("language", "code")),
        "language, nano, contract B",
        "",
    ]
    assert [len(read_curves(axes, "-")) for axes in figure.axes] == [1, 1, 1, 0]


def test_the_distance_to_a_known_floor_is_a_column(measured, builder):
    builder.add("moe")
    runs = load_runs(measured.sweep)
    table = comparison_table(runs)
    names = [(column.group, column.name) for column in table.columns]
    place = names.index(("language", "above floor"))
    assert ("code", "above floor") not in names
    assert [row[place] for row in table.rows] == ["-", "0.200", "0.200"], "sorted by result"
    assert "above floor" in comparison_text(runs) and runs["language/above_floor_bits_per_byte"].dtype == "float64"


def test_text_without_a_known_floor_shows_only_loss_by_position(builder, four):
    write_measurements(builder.add("jamba"), 1.0, floor=False)
    runs = load_runs(four.sweep)
    files = {name for chart in build_charts(runs, load_metrics(four.sweep), four.sweep) for name in chart.files}
    assert "loss_by_position" in files and "recall_by_distance" not in files
    (panel,) = draw(position_chart(runs)).axes
    assert len(panel.lines) == 1


def test_the_end_of_the_training_context_is_marked(measured):
    (panel,) = draw(beyond_chart(load_runs(measured.sweep))).axes
    assert read_curves(panel, "-") == [[[1, 2, 4, 8], [4, 3, 2, 5]]] * 2
    assert [128, 128] in [x for x, _ in read_curves(panel, "--")]


def test_a_probe_shows_the_loss_saved_by_a_mention(measured):
    (panel,) = draw(probe_chart(load_runs(measured.sweep), "copying")).axes
    assert read_curves(panel, "-") == [[[16, 32], [2, 1]]] * 2
    assert "nothing measured" in str(draw(probe_chart(load_runs(measured.sweep), "recall")).texts[0])


def test_the_report_has_a_figure_for_every_measurement(measured):
    text = (write_report(measured.sweep).parent / "summary.md").read_text()
    assert "Loss by position in the window" in text and "Recall of names" in text
    assert {"loss_by_position.png", "recall_by_distance.png", "loss_beyond.png", "probe_copying.png"} <= {
        file.name for file in (measured.sweep / "report" / "figures").iterdir()
    }


def test_a_damaged_evaluation_is_ignored(measured):
    run_dir = measured.root / "runs" / "mamba-nano-full-s0-0000abcd"
    damaged = {"context": {"positions": [1], "recall": {"to": 4, "n": "x"}}, "test": [3], "probes": 7, "scripts": []}
    (run_dir / "evaluation.json").write_text(json.dumps({"stages": {"language": damaged, "code": None}}))
    assert load_context(run_dir)["language"]["positions"] == {}
    assert len(draw(position_chart(load_runs(measured.sweep))).axes) == 1
    draw(recall_chart(load_runs(measured.sweep)))
    write_report(measured.sweep)


def test_a_probe_within_its_noise_is_left_out_with_the_reason(builder):
    for name in ("dense", "mamba"):
        for seed, level in enumerate((0.0, 0.01, 0.02)):
            write_measurements(builder.add(name, seed), level)
    page = write_report(builder.sweep)
    line = (
        "Copying by distance: left out: no mean saves 0.05 nats or more that the spread of its seeds does not explain"
    )
    assert f"<li>{line}</li>" in page.read_text("utf-8") and f"- {line}" in page.with_name("summary.md").read_text(
        "utf-8"
    )
    assert not (page.parent / "figures" / "probe_copying.png").exists()
    for run in builder.root.glob("runs/dense-*"):
        write_measurements(run, 2.0)
    assert (write_report(builder.sweep).parent / "figures" / "probe_copying.png").exists()
