"""Budgets of equal tokens, equal FLOPs and equal time; each schedule ends at its budget."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from src.runs import runner, stage_runner
from src.runtime.atomic_files import read_json
from src.tracking.tracker import MultiTracker, Row
from src.training import loop
from src.training.progress import Progress
from src.training.stage_budget import StagePlan, steps_in_time
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


def set_clock(
    patch: pytest.MonkeyPatch, measured: float, trained: float, later: float = 0.0, change_after: int = 10**6
) -> None:
    """Let each step take `measured` seconds when it is timed at the start, and `trained`, then `later`, in training."""
    steps, now, true_step, true_times = 0, 0.0, loop.train_step, stage_runner.median_times

    def step(*arguments: Any, **options: Any) -> Any:
        nonlocal steps, now
        steps += 1
        now += trained if steps <= change_after else later
        return true_step(*arguments, **options)

    patch.setattr(loop, "train_step", step)
    patch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    patch.setattr(stage_runner, "median_times", lambda *given: [true_times(*given)[0] * 0 + measured])


def train_time(stage: dict[str, Any]) -> float:
    return stage["tokens"] / stage["tokens_per_second"]


TIMED = ("training.budget=time", "training.max_seconds=4.2")


@pytest.mark.parametrize(("trained", "steps"), [(0.5, 8), (0.7, 6), (0.4, 10), (1.0, 4)])
def test_steps_of_a_time_budget_are_counted_at_the_start_and_until_the_rate_decays(
    trained: float, steps: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 steps by the measurement at the start; after each tenth, what the time of those so far says."""
    set_clock(monkeypatch, 0.5, trained)
    timed, rates = train_run(data, tmp_path, *TIMED)
    stage = timed["stages"]["language"]
    assert stage["steps"] == len(rates) == steps and train_time(stage) == pytest.approx(steps * trained)
    assert rates[-1] == pytest.approx(min(rates[2:])), "the schedule ends with the last step"
    assert timed["contract"]["stages"] == "language: language 4.2 s"
    folder = tiny.only_run(tmp_path)
    assert yaml.safe_load((folder / "config.yaml").read_text())["training"]["measured_steps"] == 8


def test_a_change_of_speed_after_half_of_the_time_is_noticed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps at first; the last count is after 14, and leaves a fifth of the steps for the decay."""
    set_clock(monkeypatch, 0.05, 0.05, later=0.1, change_after=11)
    timed, rates = train_run(data, tmp_path, "training.budget=time", "training.max_seconds=1")
    assert timed["stages"]["language"]["steps"] == 18 and train_time(timed["stages"]["language"]) == pytest.approx(1.25)
    assert rates[-1] == pytest.approx(min(rates[2:]))


def test_a_stage_may_always_lower_its_rate_after_its_steps_are_counted_again() -> None:
    assert steps_in_time(Progress("language", step=100, train_time_s=50.0), 100.0, 0.2) == 200
    assert steps_in_time(Progress("language", step=100, train_time_s=500.0), 100.0, 0.2) == 125
    assert steps_in_time(Progress("language", step=1, train_time_s=9.0), 1.0, 0.2) == 2


@pytest.mark.parametrize("decay_fraction", [0.01, 0.05, 0.1, 0.2, 0.5])
def test_a_stage_ends_at_every_length_of_the_decay(decay_fraction: float) -> None:
    """Once at four times the speed expected, and once at a quarter of it."""
    slow = Progress("language", step=90, train_time_s=500.0)
    assert (1 - decay_fraction) * steps_in_time(slow, 1.0, decay_fraction) == pytest.approx(90, abs=1)
    for step_s in (0.025, 0.4):
        plan = StagePlan("language", 190, 1e-3, 1, 1, 1.0, recount_every=19, decay_fraction=decay_fraction)
        for step in range(19, 5000, 19):
            if step > plan.steps:
                break
            progress = Progress("language", step=step, train_time_s=step * step_s)
            if plan.is_recount_due(progress):
                plan = replace(plan, steps=steps_in_time(progress, 19.0, decay_fraction))
        assert plan.steps <= 760


def test_measuring_steps_does_not_change_the_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, 0.5, 0.5)
    timed, rates = train_run(data, tmp_path / "timed", *TIMED)
    counted, expected = train_run(data, tmp_path / "counted", "training.max_steps=8")
    assert rates == expected and timed["final"]["val_loss"] == counted["final"]["val_loss"]


@pytest.mark.parametrize("stop_at", [4, 10, 13])
def test_a_stopped_run_of_equal_time_ends_as_without(
    stop_at: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when more steps are left than were planned at the start."""
    settings = (*TIMED, "evaluation.enabled=false", "training.checkpoint_every=1")
    with monkeypatch.context() as patch:
        set_clock(patch, 0.5, 0.3)
        whole, _ = train_run(data, tmp_path / "whole", *settings)
    with monkeypatch.context() as patch:
        set_clock(patch, 0.5, 0.3)
        tiny.stop_after_a_save(patch, stop_at)
        assert tiny.run(data, tmp_path / "stopped", *settings) == 130
    set_clock(monkeypatch, 9.9, 0.3)  # would give another number of steps
    resumed, _ = train_run(data, tmp_path / "stopped", *settings)
    before, after = whole["stages"]["language"], resumed["stages"]["language"]
    assert before["steps"] == after["steps"] == 14 and before["val_loss"] == after["val_loss"]
    assert train_time(before) == pytest.approx(train_time(after))


def test_steps_of_trackers_increase_over_stages_of_one_time(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[int] = []

    class Recorder(MultiTracker):
        def log(self, row: Row, global_step: int) -> None:
            logged.append(global_step)

        def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
            logged.append(global_step)

    monkeypatch.setattr(runner, "build_tracker", lambda *_: Recorder({}, print))
    set_clock(monkeypatch, 0.5, 0.3)
    train_run(data, tmp_path, *TIMED, "stage=full")
    assert logged == sorted(logged) and set(logged) == set(range(30)), "14 steps and their beginning, twice"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_run_keeps_its_measured_steps(
    processes: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the run was started with another number of processes."""
    settings = ("training.budget=time", "training.max_seconds=4", "evaluation.enabled=false")
    set_clock(monkeypatch, 0.5, 0.5)
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
    set_clock(monkeypatch, 0.5, 0.5)
    train_run(data, tmp_path / "first", *settings)
    first = tiny.only_run(tmp_path / "first")
    set_clock(monkeypatch, 1.0, 1.0)
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
