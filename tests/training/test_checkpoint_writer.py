"""Checkpoints in the background have the state of the step at which they were begun, and replace others when whole."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from src.data.loader import TrainLoader
from src.runtime.background import open_background_task
from src.runtime.device import Device
from src.training import checkpoint
from src.training.checkpoint import load_state, load_weights, read_checkpoint, save_checkpoint
from src.training.checkpoint_writer import CheckpointWriter
from src.training.progress import Progress
from src.training.sharded_files import weight_tensors
from src.training.train_step import TrainState
from tests.contract.small import CPU, small_model
from tests.training.conftest import StateBuilder, step


@contextmanager
def open_writer(log: list[str] | None = None) -> Iterator[CheckpointWriter]:
    lines = [] if log is None else log
    with open_background_task() as task:
        yield CheckpointWriter(task, CPU, lines.append)


def save(folder: Path, state: TrainState, n_steps: int, writer: CheckpointWriter | None) -> None:
    progress = Progress("language", n_steps)
    more = {"tokenizer_sha256": "abc", "run": "a-run", "state": state.state_dict()}
    save_checkpoint(folder, state.model, progress, writer=writer, **more)


@pytest.fixture
def state(build_state: StateBuilder, loader: TrainLoader) -> TrainState:
    state = build_state("mamba")
    step(state, CPU.tensor(loader.batch(0, 4)))
    return state


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writes that wait for this event, as those of a slow disk."""
    event, real = threading.Event(), checkpoint._write_whole  # pyright: ignore[reportPrivateUsage]

    def wait_and_write(*arguments: Any) -> None:
        assert event.wait(60)
        real(*arguments)

    monkeypatch.setattr(checkpoint, "_write_whole", wait_and_write)
    return event


def test_a_slow_writer_saves_the_state_of_its_step(
    released: threading.Event, state: TrainState, loader: TrainLoader, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    moments = [value["exp_avg"].clone() for value in state.optimizer.state.values()]
    steps = [float(value["step"]) for value in state.optimizer.state.values()]
    with open_writer() as writer:
        save(tmp_path / "last", state, 1, writer)
        step(state, CPU.tensor(loader.batch(1, 4)))  # while the writer waits
        assert not (tmp_path / "last").exists()
        released.set()
        writer.task.wait()
        info = read_checkpoint(tmp_path / "last")
    assert info.progress.step == 1
    assert any(not torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    restored = small_model("mamba", seed=3)
    load_weights(info, restored)
    assert all(torch.equal(tensor, before[name]) for name, tensor in restored.state_dict().items())
    saved = [*load_state(info)["optimizer"]["state"].values()]
    assert all(torch.equal(value["exp_avg"], moment) for value, moment in zip(saved, moments, strict=True))
    assert [float(value["step"]) for value in saved] == steps


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # as is meant for one process
def test_training_goes_on_while_shards_are_written(
    released: threading.Event, state: TrainState, loader: TrainLoader, tmp_path: Path
) -> None:
    shards = {name: tensor.clone() for name, tensor in weight_tensors(state.model).items()}
    with open_writer() as writer:
        more = {"tokenizer_sha256": "abc", "run": "a-run", "state": {}, "shards": weight_tensors(state.model)}
        save_checkpoint(tmp_path / "last", state.model, Progress("language", 1), writer=writer, **more)
        step(state, CPU.tensor(loader.batch(1, 4)))
        assert not (tmp_path / "last").exists()
        released.set()
        writer.wait()
        restored = small_model("mamba", seed=3)
        load_weights(read_checkpoint(tmp_path / "last"), restored)
    assert all(torch.equal(tensor, shards[name]) for name, tensor in weight_tensors(restored).items())


def test_files_have_the_bytes_of_a_save_that_training_waits_for(state: TrainState, tmp_path: Path) -> None:
    with open_writer() as writer:
        save(tmp_path / "background", state, 1, writer)
    save(tmp_path / "foreground", state, 1, None)
    one, other = (read_checkpoint(tmp_path / name) for name in ("background", "foreground"))
    assert one.sha256["model.safetensors"] == other.sha256["model.safetensors"]
    assert (tmp_path / "background" / "model.safetensors").stat().st_mode == (
        tmp_path / "foreground" / "model.safetensors"
    ).stat().st_mode


def test_an_error_keeps_the_earlier_checkpoint_and_no_temporary_file(
    released: threading.Event, state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released.set()
    save(tmp_path / "last", state, 1, None)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_writer() as writer:
        monkeypatch.setattr(torch, "save", fail)
        save(tmp_path / "last", state, 2, writer)
        with pytest.raises(OSError, match="No space left"):
            writer.task.wait()
    assert read_checkpoint(tmp_path / "last").progress.step == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["last"]


def test_without_room_for_a_copy_training_waits_and_the_log_says_so_once(
    state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [*state.model.state_dict().values()]
    for each in state.optimizer.state.values():
        tensors += [value for value in each.values() if isinstance(value, torch.Tensor)]
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    lines: list[str] = []
    with open_writer(lines) as writer:
        monkeypatch.setattr(Device, "free_host_bytes", lambda _: 2 * needed - 1)
        for n_steps in (1, 2):
            save(tmp_path / "last", state, n_steps, writer)
            assert read_checkpoint(tmp_path / "last").progress.step == n_steps  # written already
        (line,) = lines
        assert line.startswith("Checkpoints: training waits while they are written, as a copy of ")
        assert line.endswith(" is more than 50% of the free memory (" + line.rpartition("(")[2])
        monkeypatch.setattr(Device, "free_host_bytes", lambda _: 2 * needed + 8 * len(tensors))
        assert writer.copy({"a": [torch.ones(2), ("b", 1.0)]}) == {"a": [pytest.approx(torch.ones(2)), ("b", 1.0)]}


def test_the_free_memory_of_the_host_is_positive_and_within_the_machine() -> None:
    assert 0 < CPU.free_host_bytes() <= CPU.capacity_bytes()
