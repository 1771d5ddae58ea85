"""The training loop: order of events, stop signals, and exact resumption."""

import io
import math
import signal
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from src.config.schema import ScheduleConfig, TrainingConfig
from src.data.loader import TrainLoader
from src.runtime.signals import Interrupted, StopRequest
from src.training import loop
from src.training.loop import Hooks, Validation, fit
from src.training.stage_budget import StagePlan
from src.training.train_step import StepOutput, TrainState, train_step
from tests.contract.small import ARCHITECTURES, CPU
from tests.integration import tiny
from tests.training.conftest import StateBuilder, poison

SCHEDULE = ScheduleConfig(name="cosine")
BATCH, SEQ_LEN = 4, 16


@dataclass
class Recorder:
    """Hooks that record the calls and keep the last checkpoint."""

    state: TrainState
    losses: list[float] = field(default_factory=lambda: [3.0, 2.0, 2.5, 1.0, 1.5])
    """Losses that evaluations return, repeated."""
    stop_after: int | None = None
    calls: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    saved: bytes = b""
    awaited: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Checkpoints that are not saved in the background."""
    stop: StopRequest = field(default_factory=StopRequest)
    evaluations: int = 0

    def hooks(self) -> Hooks:
        return Hooks(self.evaluate, self.log, self.save, self.begin_branch)

    def evaluate(self) -> Validation:
        self.calls.append(("evaluate", self.state.progress.step))
        loss = self.losses[self.evaluations % len(self.losses)]
        self.evaluations += 1
        return Validation(loss, loss / 2)

    def log(self, row: dict[str, Any]) -> None:
        self.calls.append(("log val" if "val/loss" in row else "log train", row["step"]))
        self.rows.append(row)
        if self.stop_after == row["step"] and "train/loss" in row:
            self.stop.handle(signal.SIGTERM, None)

    def begin_branch(self, name: str) -> None:
        self.calls.append((f"begin {name}", self.state.progress.step))

    def save(self, kind: str, in_background: bool) -> None:
        self.calls.append((kind, self.state.progress.step))
        if not in_background:
            self.awaited.append(self.calls[-1])
        if kind == "last":
            file = io.BytesIO()
            torch.save({"model": self.state.model.state_dict(), "state": self.state.state_dict()}, file)
            self.saved = file.getvalue()


def train(
    recorder: Recorder,
    loader: TrainLoader,
    steps: int = 6,
    intervals: tuple[int, int, int] = (1, 2, 3),
    dropout: float = 0.0,
    seed: int = 0,
    **more: Any,
) -> Recorder:
    log, evaluate, checkpoint = intervals
    training = TrainingConfig(
        seq_len=SEQ_LEN, global_batch_size=BATCH, micro_batch_size=2, max_tokens=10**9, log_every=log, dropout=dropout
    )
    plan = StagePlan("language", steps, 1e-3, evaluate, checkpoint, flops_per_token=7.0, **more)
    hooks = recorder.hooks()
    fit(recorder.state, plan, loader, training, SCHEDULE, 1.0, CPU, hooks, recorder.stop, seed=seed)
    return recorder


@pytest.fixture
def recorder(build_state: StateBuilder) -> Recorder:
    return Recorder(build_state())


def test_order_of_logging_evaluation_and_checkpoints(recorder: Recorder, loader: TrainLoader) -> None:
    train(recorder, loader, steps=5)
    train_rows = [("log train", step) for step in (1, 2, 3, 4, 5)]
    assert recorder.calls == [
        *[("evaluate", 0), ("log val", 0), ("best", 0)],
        train_rows[0],
        *[train_rows[1], ("evaluate", 2), ("log val", 2), ("best", 2)],
        *[train_rows[2], ("last", 3)],
        *[train_rows[3], ("evaluate", 4), ("log val", 4)],
        *[train_rows[4], ("evaluate", 5), ("log val", 5), ("best", 5), ("last", 5)],
    ]
    progress = recorder.state.progress
    assert (progress.step, progress.tokens) == (5, 5 * BATCH * SEQ_LEN)
    assert (progress.val_loss, progress.val_bits_per_byte, progress.best_val_loss) == (1.0, 0.5, 1.0)
    assert 0 < progress.train_time_s <= progress.wall_time_s


def test_next_batch_is_loaded_before_a_step_is_read(
    recorder: Recorder, loader: TrainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a device computes a step while the host loads the next batch: only a logged step waits for the device."""

    def traced_step(*args: Any, **settings: Any) -> StepOutput:
        recorder.calls.append(("step", recorder.state.progress.step))
        return train_step(*args, **settings)

    def traced_batch(step: int, size: int, rows: slice) -> np.ndarray:
        recorder.calls.append(("load", step))
        return load(step, size, rows)

    load = loader.batch
    monkeypatch.setattr(loader, "batch", traced_batch)
    monkeypatch.setattr(loop, "train_step", traced_step)
    train(recorder, loader, steps=3, intervals=(1, 100, 100))
    order = [call for call in recorder.calls if call[0] in ("load", "step", "log train")]
    assert order == [
        *[("load", 0), ("step", 0), ("load", 1), ("log train", 1)],
        *[("step", 1), ("load", 2), ("log train", 2)],
        *[("step", 2), ("log train", 3)],
    ]


def test_last_step_is_logged_evaluated_and_saved(recorder: Recorder, loader: TrainLoader) -> None:
    train(recorder, loader, steps=3, intervals=(100, 100, 100))
    assert recorder.calls == [
        *[("evaluate", 0), ("log val", 0), ("best", 0)],
        *[("log train", 3), ("evaluate", 3), ("log val", 3), ("best", 3), ("last", 3)],
    ]


def test_only_the_checkpoint_of_the_last_step_or_of_a_signal_is_awaited(
    recorder: Recorder, loader: TrainLoader
) -> None:
    recorder.stop_after = 4
    with pytest.raises(Interrupted):
        train(recorder, loader, intervals=(1, 2, 1))
    recorder.stop, recorder.stop_after = StopRequest(), None
    train(recorder, loader, intervals=(1, 2, 1))
    assert [step for kind, step in recorder.calls if kind == "last"] == [1, 2, 3, 4, 5, 6]
    assert recorder.awaited == [("last", 4), ("last", 6)]


def test_branch_begins_before_the_checkpoint_and_with_an_evaluation(recorder: Recorder, loader: TrainLoader) -> None:
    train(recorder, loader, steps=4, branches={"quarter": 3, "half": 3})
    at = recorder.calls.index(("begin quarter", 3))
    assert recorder.calls[at : at + 3] == [("begin quarter", 3), ("begin half", 3), ("last", 3)]
    assert sum(name.startswith("begin") for name, _ in recorder.calls) == 2

    recorder.calls.clear()
    train(recorder, loader, steps=6, intervals=(100, 100, 100), first_step=4)
    assert recorder.calls[:2] == [("evaluate", 4), ("log val", 4)]


def test_rows_have_stage_step_tokens_and_speed(recorder: Recorder, loader: TrainLoader) -> None:
    train(recorder, loader, steps=4)
    for row in recorder.rows:
        assert row["stage"] == "language"
        assert row["tokens"] == row["step"] * BATCH * SEQ_LEN
        assert row["flops"] == row["tokens"] * 7.0
        assert row["perf/peak_memory_bytes"] > 0
    times = [row["wall_time_s"] for row in recorder.rows]
    assert times == sorted(times) and times[0] >= 0
    steps = [row for row in recorder.rows if "train/loss" in row]
    assert all(row["perf/tokens_per_second"] > 0 and row["train/skipped_steps"] == 0 for row in steps)
    assert all(row["train/grad_norm"] > 0 for row in steps)
    assert steps[0]["train/loss"] == pytest.approx(math.log(260), rel=0.02)
    assert steps[0]["train/learning_rate"] == 1e-3, "no warm-up in 4 steps"
    assert steps[-1]["train/learning_rate"] == pytest.approx(1e-4)


def test_skipped_steps_are_counted_and_loss_is_null(recorder: Recorder, loader: TrainLoader) -> None:
    poison(recorder.state, [1.0, 1.0, torch.nan, *[1.0] * 5])  # in the second step: two micro batches each
    train(recorder, loader, steps=4)
    rows = [row for row in recorder.rows if "train/loss" in row]
    assert [row["train/skipped_steps"] for row in rows] == [0, 1, 1, 1]
    assert rows[1]["train/loss"] is None and rows[1]["train/grad_norm"] is None
    assert rows[2]["train/loss"] is not None
    assert recorder.state.progress.skipped_steps == 1


@pytest.mark.parametrize("last_step", [False, True])
def test_stop_signal_saves_within_a_step(last_step: bool, recorder: Recorder, loader: TrainLoader) -> None:
    recorder.stop_after = 6 if last_step else 2
    if last_step:  # there is no further step to interrupt
        train(recorder, loader)
    else:
        with pytest.raises(Interrupted) as error:
            train(recorder, loader, intervals=(1, 100, 100))
        assert error.value.exit_code == 128 + signal.SIGTERM
    assert recorder.calls[-1] == ("last", recorder.stop_after)


def test_evaluation_before_a_stop_is_saved(recorder: Recorder, loader: TrainLoader) -> None:
    recorder.stop_after = 2
    with pytest.raises(Interrupted):
        train(recorder, loader)
    assert recorder.calls[-4:] == [("evaluate", 2), ("log val", 2), ("best", 2), ("last", 2)]
    assert recorder.state.progress.val_loss == 2.0


@pytest.mark.parametrize("dropout", [0.1, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resumed_training_is_identical(
    architecture: str, dropout: float, build_state: StateBuilder, loader: TrainLoader
) -> None:
    uninterrupted = train(Recorder(build_state(architecture)), loader, dropout=dropout)

    first = Recorder(build_state(architecture), stop_after=3)
    with pytest.raises(Interrupted):
        train(first, loader, dropout=dropout)
    saved = torch.load(io.BytesIO(first.saved), weights_only=True)
    second = Recorder(build_state(architecture, seed=9), evaluations=first.evaluations)
    second.state.model.load_state_dict(saved["model"])
    second.state.restore(saved["state"])
    train(second, loader, dropout=dropout)

    # The uninterrupted run saves at the step of the stop too.
    assert uninterrupted.calls == first.calls + second.calls
    rows = [tiny.drop_times(each.rows) for each in (uninterrupted, first, second)]
    assert rows[0] == rows[1] + rows[2]
    expected = uninterrupted.state.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.state.model.state_dict().items())
    one, two = (each.state.optimizer.state_dict()["state"] for each in (uninterrupted, second))
    assert all(torch.equal(one[i][name], two[i][name]) for i in one for name in one[i])
    ours, theirs = vars(second.state.progress), vars(uninterrupted.state.progress)
    assert {k: v for k, v in ours.items() if "time" not in k} == {k: v for k, v in theirs.items() if "time" not in k}
    assert second.state.progress.wall_time_s > saved["state"]["progress"]["wall_time_s"]


def test_dropout_is_a_function_of_the_seed(build_state: StateBuilder, loader: TrainLoader) -> None:
    cases = ((0.1, 0), (0.1, 0), (0.1, 1), (0.0, 0))
    runs = [train(Recorder(build_state()), loader, dropout=dropout, seed=seed).rows for dropout, seed in cases]
    losses = [[row["train/loss"] for row in rows if "train/loss" in row] for rows in runs]
    assert losses[0] == losses[1]
    assert not any(losses[0][0] == other[0] for other in losses[2:])


class LateStop(StopRequest):
    """A stop signal that arrives just after the loop has read it."""

    n_reads = 0

    @property
    def number(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.n_reads += 1
        return signal.SIGTERM if self.n_reads > 1 else None

    @number.setter
    def number(self, value: int | None) -> None:
        pass


def test_late_stop_signal_is_handled_after_a_save(recorder: Recorder, loader: TrainLoader) -> None:
    recorder.stop = LateStop()
    with pytest.raises(Interrupted):
        train(recorder, loader, intervals=(1, 100, 100))
    assert recorder.calls[-1] == ("last", 2)
