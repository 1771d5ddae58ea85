"""Budgets of equal tokens, equal FLOPs and equal time; each schedule ends at its budget."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from src.runs import stage_runner
from src.runtime.atomic_files import read_json
from tests.integration import tiny


def train_run(data: Path, root: Path, *more: str) -> tuple[dict[str, Any], list[float]]:
    """Return the summary of a run and its learning rates."""
    assert tiny.run(data, root, "evaluation.enabled=false", *more) == 0
    folder = tiny.only_run(root)
    rates = [row["train/learning_rate"] for row in tiny.read_rows(folder) if "train/loss" in row]
    return read_json(folder / "summary.json"), rates


def test_equal_flops_give_the_flops_of_dense(data: Path, tmp_path: Path) -> None:
    settings = ("training.budget=flops", "training.max_steps=12")
    dense, of_dense = train_run(data, tmp_path / "dense", *settings)
    mamba, of_mamba = train_run(data, tmp_path / "mamba", "architecture=mamba", *settings)
    assert dense["stages"]["language"]["steps"] == 12 != mamba["stages"]["language"]["steps"]
    step = mamba["accounting"]["train_flops_per_token"] * 4 * 32
    assert 0 <= dense["final"]["train_flops"] - mamba["final"]["train_flops"] < step
    assert of_dense[-1] == pytest.approx(of_mamba[-1], rel=0.05), "both schedules end at the least rate"
    assert dense["contract"] == mamba["contract"] and dense["contract"]["training.budget"] == "flops"
    assert "of dense 12 steps and 1536 tokens" in dense["contract"]["stages"]


def test_equal_time_is_measured_once_and_does_not_change_the_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time budget that a fake clock converts to 8 steps gives the result of a run of 8 steps."""
    true = stage_runner.median_times
    monkeypatch.setattr(stage_runner, "median_times", lambda *given: [true(*given)[0] * 0 + 0.5])
    settings = ("training.budget=time", "training.max_seconds=4.2")
    timed, rates = train_run(data, tmp_path / "timed", *settings)
    counted, expected = train_run(data, tmp_path / "counted", "training.max_steps=8")
    assert timed["stages"]["language"]["steps"] == 8 and rates == expected
    assert timed["final"]["val_loss"] == counted["final"]["val_loss"]
    assert timed["contract"]["stages"] == "language: language 4.2 s"
    folder = tiny.only_run(tmp_path / "timed")
    assert yaml.safe_load((folder / "config.yaml").read_text())["training"]["measured_steps"] == 8


@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_run_keeps_its_measured_steps(
    processes: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the run was started with another number of processes."""
    settings = ("training.budget=time", "training.max_seconds=4", "evaluation.enabled=false")
    monkeypatch.setattr(stage_runner, "median_times", lambda *given: [0.5])
    with monkeypatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert tiny.run(data, tmp_path, *settings) == 130
    folder = tiny.only_run(tmp_path)
    environment = read_json(folder / "summary.json")["environment"]
    tiny.change_summary(folder, environment=environment | {"processes": processes})
    monkeypatch.setattr(stage_runner, "median_times", None)  # no second measurement is allowed
    assert tiny.run(data, tmp_path, *settings) == 0
    assert read_json(folder / "summary.json")["stages"]["language"]["steps"] == 8


@pytest.mark.slow
def test_a_stage_that_starts_from_a_timed_run_measures_its_own_time(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("training.budget=time", "training.max_seconds=4")
    monkeypatch.setattr(stage_runner, "median_times", lambda *given: [0.5])
    train_run(data, tmp_path / "first", *settings)
    first = tiny.only_run(tmp_path / "first")
    monkeypatch.setattr(stage_runner, "median_times", lambda *given: [1.0])
    measured = ["runtime.device=cpu", "runtime.threads=1", "tracking=none", "evaluation.enabled=false"]
    root = tmp_path / "second"
    assert tiny.train_main(["stage=code", f"init_from={first}", f"output_root={root}", *measured]) == 0
    assert read_json(tiny.only_run(root) / "summary.json")["stages"]["code"]["steps"] == 4


@pytest.mark.slow
def test_a_time_budget_is_met_approximately(data: Path, tmp_path: Path) -> None:
    summary, _ = train_run(data, tmp_path, "training.budget=time", "training.max_seconds=3", "architecture=hybrid")
    final = summary["final"]
    assert 1 < final["tokens"] / final["tokens_per_second"] < 9, "this machine may be busy; a second is the measurement"


INVALID_SETTINGS = {
    "training.budget=time": "training.budget=time, training.max_seconds=None",
    "training.max_seconds=5": "training.budget=tokens, training.max_seconds=5.0",
    "training.budget=energy": "training.budget=energy: must be one of tokens, flops, time",
    "training.measured_steps=4": "training.measured_steps=4: is measured by the run",
}


@pytest.mark.parametrize("setting", INVALID_SETTINGS)
def test_invalid_budgets_are_errors(
    data: Path, tmp_path: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(data, tmp_path, setting) == 2
    assert INVALID_SETTINGS[setting] in capsys.readouterr().err
