"""Tables of runs that were evaluated on the test split: verdicts, forgetting and generated scripts."""

import json
import math

import pytest

from src.reporting import comparison_text, load_runs, write_report
from src.reporting.tables.secondary import further_tables


def evaluate(run_dir, language, forgotten, code, **scripts):
    """Write an evaluation with given test bits per byte: of language before and after the code stage, and of code."""
    summed = {"n": 4, "finished": 1.0, "valid": 0.5, "findings_per_line": None, "memorised": 0.25, "distinct_4": 0.75}

    def test(first, second):
        values = {"language": first, "code": second}
        return {
            corpus: {"loss": bits * math.log(2) * 3.2, "bits_per_byte": bits, "tokens": 1000}
            for corpus, bits in values.items()
        }

    stages = {
        "language": {"corpus": "language", "test": test(language, 5.0)},
        "code": {"corpus": "code", "test": test(forgotten, code), "scripts": summed | scripts},
    }
    (run_dir / "evaluation.json").write_text(json.dumps({"format_version": 1, "stages": stages}))


@pytest.fixture
def tested(builder):
    """Three seeds of dense and mamba: mamba is worse on validation text and better on test text."""
    for seed in range(3):
        evaluate(builder.add("dense", seed, level=2.0), 1.0, 1.5 + seed / 10, 2.0 + seed / 100)
        evaluate(builder.add("mamba", seed, level=2.5), 0.9, 1.0, 1.9 + seed / 100, valid=0.25)
    return builder


def rows(runs, title):
    (table,) = (each.table for each in further_tables(runs) if each.title == title)
    return [dict(zip([column.name for column in table.columns], row, strict=True)) for row in table.rows]


def test_the_verdict_is_on_the_test_split(tested):
    verdict_text = " ".join(comparison_text(load_runs(tested.sweep)).split())
    assert "code: best is mamba 1.910" in verdict_text and "significantly worse dense 2.010" in verdict_text
    assert "bits per byte of the test text" in verdict_text and "Test loss after equal tokens" in verdict_text


def test_one_unevaluated_run_returns_the_verdict_to_validation(tested):
    tested.add("moe", 0)
    verdict_text = " ".join(comparison_text(load_runs(tested.sweep)).split())
    assert "Validation loss after equal tokens" in verdict_text and "best is mamba" not in verdict_text


def test_an_unfinished_run_without_test_loss_does_not_change_the_split(tested):
    tested.add("moe", 0, status="failed", error="x")
    assert "Test loss after equal tokens" in comparison_text(load_runs(tested.sweep))


def test_forgetting_is_reported_by_corpus(tested):
    mamba, dense = rows(load_runs(tested.sweep), "Forgetting")
    assert (dense["corpus"], dense["after"]) == ("language", "code")
    assert dense["before"].startswith("1.000±") and dense["change"].startswith("+0.600±0.248")
    assert mamba["change"] == "+0.100±0.000"


def test_scripts_are_summarized_by_architecture(tested):
    mamba, dense = rows(load_runs(tested.sweep), "Generated scripts")
    assert dense["scripts"] == "12" and dense["valid"] == "0.500 (0.25–0.75)" and mamba["valid"] == "0.250 (0.09–0.53)"
    assert dense["findings/line"] == "-" and dense["memorized"] == "0.250 (0.25–0.25)"


def test_values_of_scripts_that_nearly_all_fail_are_gray(builder):
    for seed in range(3):
        evaluate(builder.add("dense", seed), 1.0, 1.5, 2.0, valid=0.0)
        evaluate(builder.add("moe", seed), 0.9, 1.0, 1.9)
    (table,) = (each.table for each in further_tables(load_runs(builder.sweep)) if each.title == "Generated scripts")
    gray = {(table.rows[row][0], table.columns[column].name) for row, column in table.marks}
    assert gray == {("dense", name) for name in ("findings/line", "memorized", "distinct")}
    assert "fewer than 10% valid scripts" in table.gray_note()


def test_the_report_has_the_tables_and_the_csv_has_the_test_loss(tested):
    page = write_report(tested.sweep).read_text()
    assert "Forgetting" in page and "Generated scripts" in page
    text = (tested.sweep / "report" / "summary.csv").read_text().split("\n")
    row = dict(zip(text[0].split(","), text[1].split(","), strict=False))
    assert float(row["test_bits_per_byte"]) == 2.0 and float(row["language/test_bits_per_byte"]) == 1.0


def test_size_and_cost_are_reported_for_every_architecture(tested):
    mamba, dense = rows(load_runs(tested.sweep), "Size and cost")
    assert dense == {
        "architecture": "dense", "seeds": "3", "all": "2.05M", "no embeddings": "1.00M", "active": "1.00M",
        "FLOPs/token": "6.00M", "state": "-", "tokens": "614k", "FLOPs": "3.69T", "memory": "700 MB", "time": "1m 08s",
    }  # fmt: skip
    assert mamba["all"] == "2.05M" and mamba["time"] == "2m 34s"


def test_every_pair_has_its_interval_and_verdict(tested):
    language, code = rows(load_runs(tested.sweep), "Pairs")
    assert [code[name] for name in ("stage", "better", "other")] == ["code", "mamba", "dense"]
    assert code["bits/byte"] == "0.100±0.029", "2.5% of Tukey's range of two is Student's t: 3.495 * 0.01 * (2 / 3)^0.5"
    assert code["result"] == language["result"] == "significant"


def test_a_pair_with_the_best_can_be_significant_by_welch_or_equivalent(builder):
    for seed, noise in enumerate((-0.002, 0, 0.002)):
        for name, level in {"dense": 2.028, "moe": 2.0, "mamba": 2.029, "hybrid": 3.0}.items():
            builder.add(name, seed, level=level + noise * (4 if name == "moe" else 1) - 0.01 * seed, stages=("code",))
    (pairs,) = (
        each.table.rows for each in further_tables(load_runs(builder.sweep), margin=0.01) if each.title == "Pairs"
    )
    assert {(better, other): result for _, better, other, _, result in pairs} == {
        ("moe", "dense"): "significant as best", ("moe", "mamba"): "significant as best",
        ("moe", "hybrid"): "significant", ("dense", "mamba"): "equivalent",
        ("dense", "hybrid"): "significant", ("mamba", "hybrid"): "significant",
    }  # fmt: skip


def test_unevaluated_runs_have_no_secondary_tables(four):
    assert [table.title for table in further_tables(load_runs(four.sweep))] == ["Size and cost"]


@pytest.fixture
def branched(builder):
    """Three seeds of dense and mamba with a branch: mamba is worse at the small budget and better at the full one."""
    for seed in range(3):
        for name, small, whole in (("dense", 2.0, 1.5), ("mamba", 2.5, 1.25)):
            run_dir = builder.add(name, seed, stages=("language", "part"))
            summary = json.loads((run_dir / "summary.json").read_text())
            summary["stages"]["part"] |= {"corpus": "language", "branch_of": "language", "tokens": 76_800}
            (run_dir / "summary.json").write_text(json.dumps(summary))
            bits = {"language": whole + seed / 100, "part": small + seed / 100}
            stages = {
                stage: {
                    "corpus": "language",
                    "test": {"language": {"loss": value, "bits_per_byte": value, "tokens": 9}},
                }
                for stage, value in bits.items()
            }
            (run_dir / "evaluation.json").write_text(json.dumps({"format_version": 1, "stages": stages}))
    return builder


def test_differences_are_reported_by_budget_in_ascending_order(branched):
    (titled,) = (each for each in further_tables(load_runs(branched.sweep)) if each.title == "Gap by budget: language")
    assert [column.group for column in titled.table.columns] == ["", *["76.8k tokens"] * 2, *["307k tokens"] * 2]
    mamba, dense = titled.table.rows
    assert [cell.partition("±")[0] for cell in dense] == ["dense", "2.010", "0.000", "1.510", "0.250"]
    assert [cell.partition("±")[0] for cell in mamba] == ["mamba", "2.510", "0.500", "1.260", "0.000"]
    assert "Gap by budget: language" in write_report(branched.sweep).read_text()


def test_a_branch_affects_neither_result_nor_forgetting(branched):
    runs = load_runs(branched.sweep)
    assert sorted(set(runs["test_bits_per_byte"].round(2))) == [1.25, 1.26, 1.27, 1.5, 1.51, 1.52]
    assert "Forgetting" not in [each.title for each in further_tables(runs)]
    assert [column for column in runs.columns if column.endswith("branch_of")] == ["part/branch_of"]


def test_budgets_that_differ_between_architectures_are_named_by_their_stage(branched):
    for file in branched.root.glob("runs/mamba-*/summary.json"):
        summary = json.loads(file.read_text())
        summary["stages"]["part"]["tokens"] = 80_000
        file.write_text(json.dumps(summary))
    (titled,) = (each for each in further_tables(load_runs(branched.sweep)) if each.title == "Gap by budget: language")
    assert [column.group for column in titled.table.columns][1:3] == ["part"] * 2
