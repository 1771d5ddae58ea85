"""Steps without a finite gradient change nothing; too many of them in a row send a run back once, and then end it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.runtime.atomic_files import read_json
from src.training import loop
from tests.integration import tiny

SETTINGS = ("training.max_steps=12", "training.max_nonfinite_steps=3", "optimizer.learning_rate=0.01")


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, float], bool]) -> list[int]:
    """Make the gradient of some steps not finite, by number and learning rate; return the numbers as they come."""
    real, steps = loop.train_step, []

    def step(state: Any, batch: Any, **settings: Any) -> Any:
        steps.append(len(steps))
        hurt = bad(steps[-1], state.optimizer.param_groups[0]["lr"])
        if hurt:
            weight = state.model.final_norm.weight
            handle = weight.register_hook(lambda gradient: gradient * math.nan)
        output = real(state, batch, **settings)
        if hurt:
            handle.remove()
        return output

    monkeypatch.setattr(loop, "train_step", step)
    return steps


def rows(root: Path) -> list[dict[str, Any]]:
    return [row for row in tiny.rows(tiny.only_run(root)) if "train/loss" in row]


def test_a_few_bad_steps_are_skipped_and_counted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, lambda step, rate: step in (3, 4, 8))
    assert tiny.run(data, tmp_path, *SETTINGS) == 0
    assert [row["train/skipped_steps"] for row in rows(tmp_path)] == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    stage = read_json(tiny.only_run(tmp_path) / "summary.json")["stages"]["language"]
    assert (stage["skipped_steps"], stage["rollbacks"]) == (3, 0)


def test_a_run_that_diverges_goes_back_once_with_half_the_rate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 6 to 8 are bad at the full rate; the checkpoint of step 6 is the last good one (every two steps)."""
    steps = poison(monkeypatch, lambda step, rate: step in (6, 7, 8))
    assert tiny.run(data, tmp_path, *SETTINGS) == 0
    assert len(steps) == 12 + 3
    said = capsys.readouterr().out
    assert "Stage language has diverged: at step 9, 3 gradients in a row were not finite; going on from step 6" in said
    found = rows(tmp_path)
    assert [row["step"] for row in found] == list(range(1, 13))
    assert found[-1]["train/skipped_steps"] == 0, "what was taken back does not count"
    assert read_json(tiny.only_run(tmp_path) / "summary.json")["stages"]["language"]["rollbacks"] == 1
    monkeypatch.undo()
    assert tiny.run(data, tmp_path / "plain", *SETTINGS) == 0
    rates = [row["train/learning_rate"] for row in rows(tmp_path / "plain")]
    scale = [1.0] * 6 + [0.5] * 6
    assert [row["train/learning_rate"] for row in found] == pytest.approx(
        [rate * factor for rate, factor in zip(rates, scale, strict=True)]
    )


@pytest.mark.parametrize("first", [0, 6])
def test_a_run_that_diverges_again_ends_with_one_line(
    first: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or at once where there is nothing to go back to."""
    poison(monkeypatch, lambda step, rate: step >= first)
    assert tiny.run(data, tmp_path, *SETTINGS) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: optimizer.learning_rate=0.01: stage language has diverged: at step ")
    assert error.count("\n") == 1
    assert ("at half the learning rate too" in error) == (first > 0)
    summary = read_json(tiny.only_run(tmp_path) / "summary.json")
    assert summary["status"] == "failed" and "has diverged" in summary["error"]


def test_a_stop_in_between_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the rollback and resumed, the run ends with the same rows."""
    with monkeypatch.context() as patch:
        poison(patch, lambda step, rate: step in (6, 7, 8))
        assert tiny.run(data, tmp_path / "whole", *SETTINGS) == 0

    class Killed(BaseException):
        pass

    def bad(step: int, rate: float) -> bool:
        if step == 12:  # the third step after the rollback: after the checkpoint of step 8
            raise Killed
        return step in (6, 7, 8)

    with monkeypatch.context() as patch:
        poison(patch, bad)
        with pytest.raises(Killed):
            tiny.run(data, tmp_path / "killed", *SETTINGS)
    assert tiny.run(data, tmp_path / "killed", *SETTINGS) == 0
    assert tiny.untimed(rows(tmp_path / "killed")) == tiny.untimed(rows(tmp_path / "whole"))
