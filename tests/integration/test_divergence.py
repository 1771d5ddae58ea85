"""Nonfinite gradients are skipped; several in a row roll the run back once, and then end it with an error."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.runtime.atomic_files import read_json
from src.training import loop
from tests.integration import tiny

SETTINGS = ("training.max_steps=12", "training.max_nonfinite_steps=3", "optimizer.learning_rate=0.01")


def make_gradients_nonfinite(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, float], bool]) -> list[int]:
    """Make the gradient of the steps selected by `bad` nonfinite; return the list of executed step numbers."""
    real, steps = loop.train_step, []

    def step(state: Any, batch: Any, **settings: Any) -> Any:
        steps.append(len(steps))
        is_nonfinite = bad(steps[-1], state.optimizer.param_groups[0]["lr"])
        if is_nonfinite:
            weight = state.model.final_norm.weight
            handle = weight.register_hook(lambda gradient: gradient * math.nan)
        output = real(state, batch, **settings)
        if is_nonfinite:
            handle.remove()
        return output

    monkeypatch.setattr(loop, "train_step", step)
    return steps


def rows(root: Path) -> list[dict[str, Any]]:
    return [row for row in tiny.read_rows(tiny.only_run(root)) if "train/loss" in row]


def test_a_few_nonfinite_steps_are_skipped_and_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gradients_nonfinite(monkeypatch, lambda step, rate: step in (3, 4, 8))
    assert tiny.run(data, tmp_path, *SETTINGS) == 0
    assert [row["train/skipped_steps"] for row in rows(tmp_path)] == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    stage = read_json(tiny.only_run(tmp_path) / "summary.json")["stages"]["language"]
    assert (stage["skipped_steps"], stage["rollbacks"]) == (3, 0)


def test_a_diverged_run_rolls_back_once_with_half_the_learning_rate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 6 to 8 fail at the full learning rate; the last good checkpoint is that of step 6."""
    steps = make_gradients_nonfinite(monkeypatch, lambda step, rate: step in (6, 7, 8))
    assert tiny.run(data, tmp_path, *SETTINGS) == 0
    assert len(steps) == 12 + 3
    printed = capsys.readouterr().out
    assert (
        "Stage language has diverged: at step 9, 3 gradients in a row were not finite; going on from step 6" in printed
    )
    metrics = rows(tmp_path)
    assert [row["step"] for row in metrics] == list(range(1, 13))
    assert metrics[-1]["train/skipped_steps"] == 0, "steps before the rollback are not counted"
    assert read_json(tiny.only_run(tmp_path) / "summary.json")["stages"]["language"]["rollbacks"] == 1
    monkeypatch.undo()
    assert tiny.run(data, tmp_path / "plain", *SETTINGS) == 0
    rates = [row["train/learning_rate"] for row in rows(tmp_path / "plain")]
    scale = [1.0] * 6 + [0.5] * 6
    assert [row["train/learning_rate"] for row in metrics] == pytest.approx(
        [rate * factor for rate, factor in zip(rates, scale, strict=True)]
    )


@pytest.mark.parametrize("first", [0, 6])
def test_a_run_that_diverges_again_ends_with_one_error_line(
    first: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if the first steps fail and there is no checkpoint to return to."""
    make_gradients_nonfinite(monkeypatch, lambda step, rate: step >= first)
    assert tiny.run(data, tmp_path, *SETTINGS) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: optimizer.learning_rate=0.01: stage language has diverged: at step ")
    assert error.count("\n") == 1
    assert ("at half the learning rate too" in error) == (first > 0)
    summary = read_json(tiny.only_run(tmp_path) / "summary.json")
    assert summary["status"] == "failed" and "has diverged" in summary["error"]


@pytest.mark.slow
def test_an_interruption_after_the_rollback_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is interrupted after the rollback and resumed ends with the same rows."""
    with monkeypatch.context() as patch:
        make_gradients_nonfinite(patch, lambda step, rate: step in (6, 7, 8))
        assert tiny.run(data, tmp_path / "whole", *SETTINGS) == 0

    class Killed(BaseException):
        pass

    def bad(step: int, rate: float) -> bool:
        if step == 12:  # the third step after the rollback: after the checkpoint of step 8
            raise Killed
        return step in (6, 7, 8)

    with monkeypatch.context() as patch:
        make_gradients_nonfinite(patch, bad)
        with pytest.raises(Killed):
            tiny.run(data, tmp_path / "killed", *SETTINGS)
    assert tiny.run(data, tmp_path / "killed", *SETTINGS) == 0
    assert tiny.drop_times(rows(tmp_path / "killed")) == tiny.drop_times(rows(tmp_path / "whole"))
