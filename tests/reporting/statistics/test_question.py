"""The title of a report is the question that its runs answer, or a person's name for the sweep."""

import json

import pytest

from src.config.schema import ROOT
from src.reporting import load_runs
from src.reporting.data.artifacts import load_sweep_name
from src.reporting.statistics.question import question_of
from src.runtime.atomic_files import read_yaml


def ask(builder) -> str:
    return question_of(load_runs(builder.sweep))


def test_several_architectures_at_equal_tokens(four):
    assert ask(four) == "Which of four architectures learns most from 0.61M tokens?"


def test_one_architecture(builder):
    for seed in range(3):
        builder.add("dense", seed)
    assert ask(builder) == "What does dense learn from 0.61M tokens?"
    builder.add("dense", 0, run="other", contract={"optimizer.name": "muon"})
    assert ask(builder) == "What does dense learn from 0.61M tokens under two settings?"


def test_several_sizes(four):
    for architecture in ("dense", "mamba"):
        four.add(architecture, size="micro", stages=("language",))
    assert ask(four) == "Which of four architectures learns most at two sizes?"


@pytest.mark.parametrize(
    ("contract", "amount"),
    [
        ({"training.budget": "flops"}, " from 3.69T FLOPs"),
        ({"training.budget": "time", "training.max_seconds": 90.0}, " in 1m 30s a stage"),
        ({"training.budget": "time"}, ""),
    ],
)
def test_other_budgets(builder, contract, amount):
    for architecture in ("dense", "moe"):
        builder.add(architecture, contract=contract)
    assert ask(builder) == f"Which of two architectures learns most{amount}?"


def test_trials_ask_for_the_rate(builder):
    for architecture in ("dense", "moe"):
        builder.add(architecture, contract={"learning_rate_search": "trial"})
    assert ask(builder) == "Which learning rate is best for two architectures?"


def test_unfinished_runs_have_a_question(builder):
    builder.plan("dense-nano-full-s0-0000abcd", "dense")
    assert ask(builder) == "What does dense learn?"


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("mine", [], "mine"),
        ("sweep", [], None),
        ("compare-active", ["+experiment=compare_active"], None),
        ("mine", ["+experiment=compare_active"], "mine"),
    ],
)
def test_only_a_name_that_a_person_gave_is_a_title(four, name, overrides, expected):
    path = four.sweep / "sweep.json"
    sweep = json.loads(path.read_text())
    sweep["name"], sweep["jobs"][0]["overrides"] = name, overrides
    path.write_text(json.dumps(sweep))
    assert load_sweep_name(four.sweep) == expected


def test_an_experiment_names_its_sweep_after_its_file():
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        assert read_yaml(path).get("sweep_name", "sweep") in ("sweep", path.stem.replace("_", "-")), path.name
