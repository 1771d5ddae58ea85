"""The checks of published results: their experiments exist, and accuracies outside their range are not reproduced."""

from pathlib import Path

import pytest

from src import validate
from src.cli.command import run_cli
from src.cli.compose import compose_config, expand_sweep, register_schema
from src.config.schema import TrainConfig, experiment_files
from src.reporting.data.runs import load_runs, variants
from src.sweep.published import CHECKS, describe_results, judge
from tests.reporting.conftest import SweepBuilder
from tests.reporting.statistics.test_accuracy_verdict import write_evaluation


@pytest.fixture
def builder(tmp_path: Path) -> SweepBuilder:
    return SweepBuilder(tmp_path / "outputs")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.experiment)
def test_the_experiment_trains_what_is_expected(check) -> None:
    assert check.experiment in experiment_files()
    register_schema(TrainConfig, "train")
    jobs = expand_sweep("train", TrainConfig, [f"+experiment={check.experiment}"]).jobs
    configs = [compose_config(TrainConfig, "train", job) for job in jobs]
    names = {f"{c.architecture.name} {v}".strip() for c, v in zip(configs, variants(jobs), strict=True)}
    assert {expected.architecture for expected in check.expected} <= names
    assert all(config.data.is_task for config in configs)


def add(builder, architecture: str, accuracies: list[float]) -> None:
    for seed, accuracy in enumerate(accuracies):
        write_evaluation(builder.add(architecture, seed, stages=("task",)), accuracy)


def test_the_mean_over_seeds_decides(builder) -> None:
    check = next(check for check in CHECKS if check.experiment == "published/mqar_small")
    add(builder, "dense", [0.97, 0.95])
    (result,) = judge(check, load_runs(builder.sweep))
    assert result.accuracy == pytest.approx(0.96) and result.is_reproduced
    lines = describe_results({check: [result]})
    assert "0.960" in lines[2] and lines[-1].endswith("reproduced within tolerance")


def test_a_lower_accuracy_and_a_missing_run_are_not_reproduced(builder) -> None:
    check = next(check for check in CHECKS if check.experiment == "published/mqar_small")
    add(builder, "dense", [0.97, 0.5])
    found = judge(check, load_runs(builder.sweep))
    assert not found[0].is_reproduced and describe_results({check: found})[-1].endswith(": not reproduced")
    builder.add("dense", 0, status="failed", stages=("task",), run="dense-nano-task-s9-00000000")
    add(builder, "mamba", [1.0])
    (missing,) = judge(
        check._replace(expected=(check.expected[0]._replace(architecture="moe"),)), load_runs(builder.sweep)
    )
    assert missing.accuracy is None and not missing.is_reproduced


def test_a_dry_run_starts_nothing(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: validate.main(["dry_run=true", f"output_root={tmp_path}"])) == 0
    text = capsys.readouterr().out
    assert all(check.source in text for check in CHECKS) and "Nothing was started" in text
    assert not (tmp_path / "runs").exists()
