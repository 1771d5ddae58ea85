"""The answer of a report in one sentence for each headline."""

import pandas as pd
import pytest

from src.reporting import answer_lines, comparison_text, load_runs, write_report
from src.reporting.statistics.answers import join_words
from src.reporting.statistics.verdicts import compare_headlines
from tests.reporting.plots.test_verdict import SEEDS, add_seeds


def gap(runs: pd.DataFrame, other: str, stage: int = 0) -> str:
    (pair,) = (pair for pair in compare_headlines(runs)[stage].comparison.behind_leader() if pair.other == other)
    return f"{pair.difference:.3f} ± {pair.half_width:.3f}"


def test_the_best_with_its_distance_to_each_other(builder):
    runs = add_seeds(builder, {"hybrid": (2.0, 2.005, 1.995), "mamba": (2.3, 2.31, 2.32), "dense": (2.305, 2.31, 2.33)})
    language, code = answer_lines(runs)
    assert language == (
        f"language: hybrid learned most: {gap(runs, 'mamba')} bits per byte better than mamba and "
        f"{gap(runs, 'dense')} than dense; no significant difference between mamba and dense; "
        "learning rates were not searched (3 seeds)"
    )
    assert code.startswith("code: hybrid learned most: ")


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"mamba": 2.30, "dense": 2.301, "moe": 2.302}, "among mamba, dense and moe"),
        (
            {"mamba": 2.30, "dense": 2.30 + 0.04, "moe": 2.30 + 0.08},
            "between mamba and dense and between dense and moe",
        ),
        (
            {"mamba": 2.30, "dense": 2.301, "moe": 2.5, "gated": 2.501},
            "between mamba and dense and between moe and gated",
        ),
        ({name: 2.3 + 0.04 * i for i, name in enumerate("abcdef")}, "in 5 of the 15 other pairs"),
        ({"mamba": 2.30, "dense": 2.4, "moe": 2.5}, ""),
    ],
)
def test_sets_behind_the_best_of_which_no_two_differ_are_named(builder, others, sentence):
    means = {"hybrid": 2.0, **others}
    runs = add_seeds(builder, {name: (mean - 0.015, mean, mean + 0.015) for name, mean in means.items()})
    _, found, rest = answer_lines(runs)[0].partition("no significant difference ")
    assert rest.partition(";")[0] == sentence and bool(found) == bool(sentence)


def test_without_a_best_each_other_is_named_with_its_distance(builder):
    runs = add_seeds(builder, SEEDS)
    expected = (
        f"hybrid leads, not significantly before mamba ({gap(runs, 'mamba')} bits per byte behind); "
        f"dense ({gap(runs, 'dense')}) is significantly worse; "
        "learning rates were not searched (3 seeds)"
    )
    assert answer_lines(runs)[0] == f"language: {expected}"
    assert answer_lines(runs, 1.0)[0].startswith("language: hybrid leads, equivalent within 1.0 to mamba (")


def test_an_unstable_architecture_is_named_and_not_ranked(builder):
    runs = add_seeds(builder, SEEDS | {"moe": (2.4, 2.41, 3.4)})
    assert "; moe is unstable at this learning rate and not ranked; " in answer_lines(runs)[0]


def test_rates_that_were_searched_for_other_settings_are_named(builder):
    for name in SEEDS:
        for seed in range(3):
            builder.add(
                name, seed, contract={"learning_rate_search": "grid", "search_differences": "seq_len: 64 | 128"}
            )
    (answer, _) = answer_lines(load_runs(builder.sweep))
    assert "; learning rates were searched for other settings (3 seeds)" in answer


def test_several_groups_are_told_apart_by_their_title(builder):
    add_seeds(builder, SEEDS)
    runs = add_seeds(builder, SEEDS, size="micro")
    assert [line.split(":")[0] for line in answer_lines(runs)] == [
        "micro, language", "micro, code", "nano, language", "nano, code",
    ]  # fmt: skip


def test_the_report_and_the_terminal_have_the_same_sentence(builder):
    runs = add_seeds(builder, SEEDS)
    page = write_report(builder.sweep)
    for answer in answer_lines(runs):
        assert answer in page.read_text("utf-8").replace("<b>", "").replace("</b>", "")
        assert f"**{answer}**" in page.with_name("summary.md").read_text("utf-8").replace("\\", "")
        assert answer in " ".join(comparison_text(runs).split())


def test_without_a_verdict_the_answer_has_the_results_and_the_reason(four):
    assert answer_lines(load_runs(four.sweep)) == [
        "language: moe has the fewest bits per byte of the validation text, 0.947, before hybrid 0.969, dense 0.992 "
        "and mamba 1.037; no verdict: 1 seed; at least 3 are needed",
        "code: moe has the fewest bits per byte of the validation text, 0.857, before hybrid 0.879, dense 0.902 and "
        "mamba 0.947; no verdict: 1 seed; at least 3 are needed",
    ]


def test_one_architecture_has_its_result(builder):
    for seed in range(3):
        builder.add("dense", seed, stages=("code",))
    assert answer_lines(load_runs(builder.sweep)) == [
        "code: dense has 0.996 bits per byte of the validation text (3 seeds)"
    ]


def test_trials_and_unfinished_runs_have_no_answer(builder):
    builder.add("dense", contract={"learning_rate_search": "trial"})
    assert answer_lines(load_runs(builder.sweep)) == []
    page = write_report(builder.sweep).read_text("utf-8")
    assert "<strong>Verdict</strong><ul><li>" in page


@pytest.mark.parametrize(
    ("words", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_words_are_joined_as_in_a_sentence(words: list[str], text: str) -> None:
    assert join_words(words) == text
