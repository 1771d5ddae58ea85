"""A task is judged by accuracy: more is better, in the verdict, the answer, the tables and the charts."""

import json
from pathlib import Path

from src.reporting import comparison_text, load_runs, verdict_lines
from src.reporting.plots.cost import cost_chart
from src.reporting.plots.verdict import verdict_chart
from src.reporting.statistics.answers import answer_lines
from src.reporting.tables.comparison import comparison_table
from src.reporting.tables.pairs import pair_tables
from src.reporting.tables.secondary import further_tables

ACCURACIES = {"dense": (0.99, 0.985, 0.995), "mamba": (0.71, 0.70, 0.72), "moe": (0.30, 0.31, 0.32)}


def add_tasks(builder, accuracies=ACCURACIES, n_seeds=3):
    for architecture, values in accuracies.items():
        for seed, accuracy in enumerate(values[:n_seeds]):
            folder = builder.add(architecture, seed, stages=("task",))
            path = folder / "summary.json"
            summary = json.loads(path.read_text())
            stage = summary["stages"]["task"]
            stage |= {"val_bits_per_byte": None, "val_accuracy": accuracy, "references": {"uniform_loss": 4.0}}
            path.write_text(json.dumps(summary))
            write_evaluation(folder, accuracy)


def write_evaluation(folder: Path, accuracy: float) -> None:
    answers = {"difficulty": "pairs", "length": [32, 32, 64], "value": [2, 4, 4], "n": [100, 200, 200]}
    answers |= {"loss": [0.1] * 3, "accuracy": [accuracy, accuracy - 0.1, accuracy - 0.2]}
    stage = {"corpus": "task", "weights_sha256": "ab", "answers": answers}
    stage |= {"test": {"task": {"loss": 0.1, "bits_per_byte": None, "accuracy": accuracy, "tokens": 500}}}
    stage |= {"distance": {"to": [2, 4], "n": [50, 50], "accuracy": [accuracy, accuracy]}, "samples": []}
    (folder / "evaluation.json").write_text(json.dumps({"stages": {"task": stage}}))


def test_the_highest_accuracy_is_best(builder) -> None:
    add_tasks(builder)
    text = "\n".join(verdict_lines(load_runs(builder.sweep)))
    assert "task: best is dense 0.990 (sd 0.005); significantly worse mamba 0.710 (sd 0.010), moe 0.310" in text
    assert "Verdicts are on the accuracy of test answers" in text and "bits per byte" not in text


def test_the_answer_names_the_gap_in_accuracy(builder) -> None:
    add_tasks(builder)
    (line,) = answer_lines(load_runs(builder.sweep))
    assert line.startswith("task: dense learned most: 0.280 ± ") and " accuracy better than mamba" in line


def test_without_a_verdict_the_highest_accuracy_comes_first(builder) -> None:
    add_tasks(builder, n_seeds=1)
    (line,) = answer_lines(load_runs(builder.sweep))
    assert "dense has the highest accuracy of test answers, 0.990, before mamba 0.710 and moe 0.300" in line


def test_undecided_architectures_have_the_highest_mean_first(builder) -> None:
    add_tasks(builder, {"dense": (0.5, 0.7, 0.6), "mamba": (0.62, 0.55, 0.60)})
    text = "\n".join(verdict_lines(load_runs(builder.sweep), margin=0.001))
    assert "no significant best; highest mean dense 0.600" in text and "0.001 accuracy (power" in text


def test_the_tables_show_accuracy_and_mark_the_highest(builder) -> None:
    add_tasks(builder)
    runs = load_runs(builder.sweep)
    table = comparison_table(runs)
    column = [each.name for each in table.columns].index("accuracy")
    assert [row[0] for row in table.rows] == ["dense", "mamba", "moe"]
    assert table.rows[0][column].startswith("0.990") and table.marks[0, column].title == "highest of its column"
    assert not any(each.name == "bits/byte" for each in table.columns)
    assert "Bold: the highest of its column" in comparison_text(runs)
    assert "Error (1 - accuracy) of the row less that of the column" in pair_tables(runs)[0].note
    titled = next(each for each in further_tables(runs) if each.title == "Accuracy by difficulty")
    assert [each.name for each in titled.table.columns] == ["architecture", "length", "pairs", "accuracy"]
    assert titled.table.rows[:3] == [
        ["dense", "32", "2", "0.990±0.012"],
        ["dense", "32", "4", "0.890±0.012"],
        ["dense", "64", "4", "0.790±0.012"],
    ]


def test_the_charts_show_accuracy(builder) -> None:
    add_tasks(builder)
    runs = load_runs(builder.sweep)
    chart = verdict_chart(runs)
    assert chart.x[""].label == "accuracy" and "more is better" in chart.note
    assert chart.panels[0].traces[0].text[""] == "0.990 best"
    assert cost_chart(runs).y[""].label == "test error (1 - accuracy)"


def test_text_and_tasks_in_one_folder_each_have_their_metric(builder) -> None:
    add_tasks(builder)
    for architecture, level in (("dense", 2.2), ("moe", 2.0)):
        for seed in range(3):
            name = f"{architecture}-nano-language-s{seed}-0000beef"
            contract = {"data_hash": "ee" * 32}
            builder.add(architecture, seed, stages=("language",), level=level, run=name, contract=contract)
    text = "\n".join(verdict_lines(load_runs(builder.sweep)))
    assert "task: best is dense 0.990" in text and "language: best is moe" in text
