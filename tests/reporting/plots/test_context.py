import json
import math

import pytest

from src.reporting import comparison_text, draw, load_metrics, load_runs, position_chart, recall_chart, write_report
from src.reporting.data.artifacts import load_context
from src.reporting.plots.charts import build_charts
from src.reporting.plots.context import beyond_chart, probe_chart
from src.reporting.tables.comparison import comparison_table


def measure(run_dir, level, stages=("language",), floor=True):
    """Write into a run what it measured of its context; `level` decides loss and accuracy."""
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


def curves(axes, style: str) -> list[list[list[float]]]:
    """Return x and y of the lines of a style."""
    return [[list(line.get_xdata()), list(line.get_ydata())] for line in axes.lines if line.get_linestyle() == style]


@pytest.fixture
def measured(builder):
    """Two seeds of dense and one of mamba, of which the first stage measured a generated text."""
    for architecture, seed, level in (("dense", 0, 1.0), ("dense", 1, 3.0), ("mamba", 0, 2.0)):
        measure(builder.add(architecture, seed), level)
    return builder


def test_a_line_is_the_mean_over_seeds_with_a_band_around_it(measured):
    figure = draw(position_chart(load_runs(measured.sweep)))
    (language,) = figure.axes
    dense, mamba = curves(language, "-")
    assert dense[0] == [1, 2, 4] and dense[1][:2] == [4, 3] and math.isnan(dense[1][2])
    assert mamba[1][:2] == [4, 3]
    low, high = language.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (2, 5)
    assert [[1, 2, 4], [0.5, 0.4, 0.3]] in curves(language, "--")
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "dense", "mamba", "floor of the same tokens",
    }  # fmt: skip


def test_recall_leaves_out_ranges_with_few_names_and_shows_what_is_hidden(measured):
    (language,) = draw(recall_chart(load_runs(measured.sweep))).axes
    assert curves(language, "-") == [[[8, 16], [0.5, 0.25]], [[8, 16], [0.5, 0.25]]]
    assert [y for _, y in curves(language, ":")] == [[0.05, 0.05]] * 2
    assert language.get_xscale() == "log"


def test_contracts_are_not_averaged(builder):
    measure(builder.add("dense"), 1.0, ("language", "code"))
    measure(builder.add("dense", 5, contract={"seq_len": 64}), 3.0)
    figure = draw(position_chart(load_runs(builder.sweep)))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        *(f"{stage}, nano, contract A" for stage in ("language", "code")),
        "language, nano, contract B",
        "",
    ]
    assert [len(curves(axes, "-")) for axes in figure.axes] == [1, 1, 1, 0]


def test_the_distance_to_the_floor_is_a_column_where_it_is_known(measured, builder):
    builder.add("moe")
    runs = load_runs(measured.sweep)
    table = comparison_table(runs)
    names = [(column.group, column.name) for column in table.columns]
    place = names.index(("language", "above floor"))
    assert ("code", "above floor") not in names
    assert [row[place] for row in table.rows] == ["0.200", "0.200", "-"]
    assert "above floor" in comparison_text(runs) and runs["language/above_floor_bits_per_byte"].dtype == "float64"


def test_text_of_no_known_floor_has_its_loss_by_position_alone(builder, four):
    measure(builder.add("jamba"), 1.0, floor=False)
    runs = load_runs(four.sweep)
    files = {name for chart in build_charts(runs, load_metrics(four.sweep), four.sweep) for name in chart.files}
    assert "loss_by_position" in files and "recall_by_distance" not in files
    (panel,) = draw(position_chart(runs)).axes
    assert len(panel.lines) == 1


def test_past_the_training_context_its_end_is_marked(measured):
    (panel,) = draw(beyond_chart(load_runs(measured.sweep))).axes
    assert curves(panel, "-") == [[[1, 2, 4, 8], [4, 3, 2, 5]]] * 2
    assert [128, 128] in [x for x, _ in curves(panel, "--")]


def test_a_probe_shows_what_a_mention_saves(measured):
    (panel,) = draw(probe_chart(load_runs(measured.sweep), "copying")).axes
    assert curves(panel, "-") == [[[16, 32], [2, 1]]] * 2
    assert "nothing measured" in str(draw(probe_chart(load_runs(measured.sweep), "recall")).texts[0])


def test_the_report_has_every_figure_of_what_was_measured(measured):
    text = (write_report(measured.sweep).parent / "summary.md").read_text()
    assert "Loss by position in the window" in text and "Recall of names" in text
    assert {"loss_by_position.png", "recall_by_distance.png", "loss_beyond.png", "probe_copying.png"} <= {
        file.name for file in (measured.sweep / "report" / "figures").iterdir()
    }


def test_a_damaged_evaluation_is_no_obstacle(measured):
    run_dir = measured.root / "runs" / "mamba-nano-full-s0-0000abcd"
    broken = {"context": {"positions": [1], "recall": {"to": 4, "n": "x"}}, "test": [3], "probes": 7, "scripts": []}
    (run_dir / "evaluation.json").write_text(json.dumps({"stages": {"language": broken, "code": None}}))
    assert load_context(run_dir)["language"]["positions"] == {}
    assert len(draw(position_chart(load_runs(measured.sweep))).axes) == 1
    draw(recall_chart(load_runs(measured.sweep)))
    write_report(measured.sweep)
