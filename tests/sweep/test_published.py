"""The checks of published results: their experiments exist, and accuracies outside their range are not reproduced."""

from dataclasses import replace
from pathlib import Path

import pytest

from src import validate
from src.cli.command import run_cli
from src.cli.compose import compose_config, register_schema
from src.config.schema import CheckConfig, ExpectedConfig, TrainConfig, UserError, ValidateConfig, experiment_files
from src.reporting.data.find_runs import variants
from src.reporting.data.runs import load_runs
from src.sweep import launch
from src.sweep.published import describe_results, judge, plan_checks
from tests.reporting.conftest import SweepBuilder
from tests.reporting.statistics.test_accuracy_verdict import write_evaluation


def composed(*more: str) -> ValidateConfig:
    register_schema(ValidateConfig, "validate")
    return compose_config(ValidateConfig, "validate", more)


NAMES = sorted(composed().checks)


@pytest.fixture
def builder(tmp_path: Path) -> SweepBuilder:
    return SweepBuilder(tmp_path / "outputs")


@pytest.mark.parametrize("name", NAMES)
def test_the_experiment_trains_what_is_expected(name: str) -> None:
    config = composed()
    check, sweep = config.checks[name], plan_checks(config)[name]
    assert check.experiment in experiment_files()
    configs = [compose_config(TrainConfig, "train", job) for job in sweep.jobs]
    names = [f"{c.architecture.name} {v}".strip() for c, v in zip(configs, variants(sweep.jobs), strict=True)]
    assert check.expected and all(names.count(each) == config.seeds for each in check.expected)
    assert all(config.data.is_task for config in configs)
    assert all(each.low < each.high for each in check.expected.values())
    assert sum(each.high - each.low for each in check.expected.values()) <= len(check.expected) / 2, "not anything"


def test_quick_runs_the_quick_checks_with_one_seed() -> None:
    whole, quick = composed(), composed("quick=true")
    assert set(plan_checks(quick)) == {name for name, check in whole.checks.items() if check.is_quick} < set(NAMES)
    assert len(plan_checks(whole)["parity"].jobs) == 3 * len(plan_checks(quick)["parity"].jobs)
    none = replace(quick, checks={"a": replace(quick.checks["parity"], is_quick=False)})
    with pytest.raises(UserError, match="none is left to run"):
        plan_checks(none)


def test_a_wrong_setting_of_a_check_is_named() -> None:
    check = replace(composed().checks["parity"], settings=["optimizer.rate=3"])
    with pytest.raises(UserError, match=r"^checks\.mine: .*optimizer\.rate"):
        plan_checks(ValidateConfig(checks={"mine": check}))


def add(builder: SweepBuilder, architecture: str, accuracies: list[float]) -> None:
    for seed, accuracy in enumerate(accuracies):
        write_evaluation(builder.add(architecture, seed, stages=("task",)), accuracy)


def test_the_mean_over_seeds_decides(builder: SweepBuilder) -> None:
    checks = composed().checks
    add(builder, "dense", [0.97, 0.95])
    (result,) = judge(checks["mqar"], load_runs(builder.sweep))
    assert result.accuracy == pytest.approx(0.96) and result.is_reproduced
    lines = describe_results(checks, {"mqar": [result]})
    assert "0.960 (0.950 to 0.970)" in lines[2] and lines[-1].startswith("mqar: reproduced within tolerance (")
    assert checks["mqar"].source in lines[-1] and checks["mqar"].tolerance in lines[-1]


def test_a_lower_accuracy_and_a_missing_run_are_not_reproduced(builder: SweepBuilder) -> None:
    checks = composed().checks
    add(builder, "dense", [0.97, 0.5])
    found = judge(checks["mqar"], load_runs(builder.sweep))
    assert not found[0].is_reproduced and "mqar: not reproduced" in describe_results(checks, {"mqar": found})[-1]
    builder.add("dense", 0, status="failed", stages=("task",), run="dense-nano-task-s9-00000000")
    add(builder, "mamba", [1.0])
    other = replace(checks["mqar"], expected={"moe": ExpectedConfig(0.9, 1, "")})
    (missing,) = judge(other, load_runs(builder.sweep))
    assert missing.accuracy is None and not missing.is_reproduced


def test_a_dry_run_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: validate.main(["dry_run=true", f"output_root={tmp_path}"])) == 0
    text = capsys.readouterr().out
    assert all(check.source in text for check in composed().checks.values()) and "Nothing was started" in text
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_interrupted_validation_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan comes first; the second call does what is left, and its status says that a result differs."""
    tiny = ["architecture=dense", "training.max_tokens=4096", "runtime=cpu", "runtime.threads=1", "sweep.live=false"]
    tiny += ["training.eval_sequences=8", "training.test_sequences=8", "schedule.warmup_steps=1"]
    expected = [{"dense": ExpectedConfig(low, high, "a fact")} for low, high in ((0, 0.9), (0.9, 1))]
    checks = {
        name: CheckConfig(
            "published/mqar_small", [*tiny, f"training.seq_len={length}"], "a source", "a reason", True, each
        )
        for name, length, each in zip(("first", "second"), (32, 16), expected, strict=True)
    }
    config = ValidateConfig(output_root=str(tmp_path), seeds=1, checks=checks)
    run_sweep, calls = launch.run_sweep, []

    def stop_at_the_second(*given: object) -> int:
        calls.append(given)
        return 130 if len(calls) == 2 else run_sweep(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(launch, "run_sweep", stop_at_the_second)
        assert validate.validate(config) == 130
    text = capsys.readouterr().out
    assert text.startswith("Plan: 2 checks.") and "within tolerance" not in text
    assert validate.validate(config) == 1, "an untrained model answers no nine of ten questions"
    text = capsys.readouterr().out
    assert "first: 1 job, 1 of them done" in text and "second: 1 job, 0 of them done" in text
    assert "first: reproduced within tolerance (a source; tolerance: a reason)" in text
    assert "second: not reproduced" in text
