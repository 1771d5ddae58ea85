"""`micro_batch_size=auto` is the largest micro batch that fits, however a trial runs out of memory."""

import math
import resource
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from src.config.schema import LauncherConfig, ModelSpec, TrainConfig, UserError
from src.runs import batch_size_finder
from src.runs.batch_size_finder import find_micro_batch_size, largest_fitting, measure_trial, own_free_bytes
from src.runs.resource_check import with_micro_batch
from src.runtime import device as runtime_device
from src.runtime.device import Device
from src.runtime.distributed import ProcessGroup
from src.runtime.signals import Interrupted, StopRequest
from src.runtime.subprocess_pool import run_in_subprocess
from tests.contract.small import CPU, composed, small_spec

GIB = 1 << 30
SMALL: tuple[str, ...] = (
    "runtime=cpu",
    "runtime.threads=1",
    "runtime.precision=fp32",
    "training.micro_batch_size=auto",
)


@pytest.mark.parametrize("rows", [1, 2, 7, 12, 60, 64, 1024])
def test_the_largest_micro_batch_is_found_in_few_trials(rows: int) -> None:
    sizes = [size for size in range(1, rows + 1) if rows % size == 0]
    for most in (0, *sizes):
        tried: list[int] = []

        def fits(size: int, most: int = most, tried: list[int] = tried) -> bool:
            tried.append(size)
            return size <= most

        assert largest_fitting(fits, sizes) == most
        assert tried[0] == rows and len(tried) == len(set(tried)) <= 1 + math.ceil(math.log2(len(sizes) + 1))


class Trials:
    """Replaces trial processes: a trial takes `each` bytes per sequence, and is killed above `dies_at`."""

    def __init__(self, each: int, dies_at: int = 1 << 60) -> None:
        self.each, self.dies_at, self.tried = each, dies_at, []

    def run_in_subprocess(self, action: Any, *, max_bytes: int, stop: StopRequest) -> int | None:
        size = action.args[0].training.micro_batch_size
        self.tried.append((size, action.keywords["accumulate"]))
        if size >= self.dies_at:
            raise BrokenProcessPool
        return size * self.each if size * self.each <= max_bytes else None


@pytest.fixture
def config() -> TrainConfig:
    return composed("dense", "modern", "size=micro", *SMALL, "training.global_batch_size=24")


@pytest.fixture
def spec() -> ModelSpec:
    return small_spec("dense")


def find(config: TrainConfig, spec: ModelSpec, device: Device = CPU) -> tuple[int, list[str]]:
    messages: list[str] = []
    free = own_free_bytes(device, config.launcher)
    return find_micro_batch_size(config, spec, device, free, StopRequest(), messages.append), messages


@pytest.mark.parametrize("dies_at", [9, 1 << 60])
def test_a_trial_that_is_killed_or_out_of_memory_does_not_fit(
    dies_at: int, config: TrainConfig, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(GIB, dies_at)
    monkeypatch.setattr(batch_size_finder, "run_in_subprocess", trials.run_in_subprocess)
    monkeypatch.setattr(runtime_device, "available_bytes", lambda: 10 * GIB)
    assert find(config, spec) == (
        8,
        [
            "training.micro_batch_size=auto: 8 of 24 sequences at a time take 8.59 GB of 9.66 GB to use (tried 24, 12: "
            "out of memory)"
        ],
    )
    assert trials.tried == [(24, False), (4, True), (8, True), (12, True)]


def test_processes_divide_batch_and_memory(
    config: TrainConfig, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    trials = Trials(GIB)
    monkeypatch.setattr(batch_size_finder, "run_in_subprocess", trials.run_in_subprocess)
    monkeypatch.setattr(runtime_device, "available_bytes", lambda: 8 * GIB)
    size_found, _ = find(config, spec, replace(CPU, process_group=ProcessGroup(0, 4, 0, 2)))
    assert (size_found, trials.tried[0]) == (3, (6, False)), "of 6 sequences each, in 4 GiB each"


@pytest.mark.parametrize(
    ("kind", "launcher", "expected"),
    [
        ("cuda", LauncherConfig("joblib", n_jobs=8), 60),  # each job has its own GPU, on which others use 20
        ("cuda", LauncherConfig("joblib", n_jobs=8, jobs_per_gpu=2), 40),  # half of the GPU, since another job may come
        ("cpu", LauncherConfig("serial"), 30),  # two processes share what is free
        ("cpu", LauncherConfig("joblib", n_jobs=4), 10),  # and four jobs of two processes the machine
    ],
)
def test_a_process_counts_the_memory_of_its_own_device(
    kind: str, launcher: LauncherConfig, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "free_bytes", lambda device: 60)
    monkeypatch.setattr(Device, "capacity_bytes", lambda device: 80)
    assert own_free_bytes(Device(kind, "fp32", 1, ProcessGroup(0, 2, 0, 2)), launcher) == expected


def test_the_memory_of_a_gpu_limits_its_trials(
    config: TrainConfig, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has far more memory than the GPU has free; what this process holds of the GPU counts as free."""
    trials = Trials(GIB)
    monkeypatch.setattr(batch_size_finder, "run_in_subprocess", trials.run_in_subprocess)
    monkeypatch.setattr(batch_size_finder, "available_bytes", lambda: 1000 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * GIB)
    monkeypatch.setattr(Device, "capacity_bytes", lambda device: 80 * GIB)
    found, messages = find(config, spec, replace(CPU, kind="cuda"))
    assert found == 6 and "of 6.76 GB to use" in messages[0]


def test_sizes_beyond_the_estimate_are_not_tried(
    config: TrainConfig, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision, where the estimate is an upper bound, sizes up to twice the estimate are tried."""
    largest = {}
    for precision in ("fp32", "bf16"):
        trials, runtime = Trials(1), replace(config.runtime, precision=precision)
        monkeypatch.setattr(batch_size_finder, "run_in_subprocess", trials.run_in_subprocess)
        monkeypatch.setattr(runtime_device, "available_bytes", lambda: 6 * GIB // 10)
        largest[precision], messages = find(replace(config, runtime=runtime), spec, replace(CPU, precision=precision))
        assert len(trials.tried) == 1
        assert ("more do not fit by the estimate" in messages[0]) == (largest[precision] < 24)
    assert 1 <= largest["fp32"] < largest["bf16"]


def test_the_error_suggests_settings_if_no_size_fits(
    config: TrainConfig, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size_finder, "run_in_subprocess", Trials(GIB).run_in_subprocess)
    monkeypatch.setattr(runtime_device, "available_bytes", lambda: GIB)
    with pytest.raises(UserError) as error:
        find(config, spec)
    messages = str(error.value)
    assert (
        messages.startswith("training.micro_batch_size=1: out of memory; training needs about ")
        and "\n" not in messages
    )
    assert "at a time)" in messages and "for example runtime.activation_checkpointing=true" in messages


def test_a_stop_signal_is_not_counted_as_out_of_memory(
    config: TrainConfig, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **settings: Any) -> int:
        raise Interrupted(15)

    monkeypatch.setattr(batch_size_finder, "run_in_subprocess", stopped)
    with pytest.raises(Interrupted):
        find(config, spec)


def find_within_limit(config: TrainConfig, spec: ModelSpec, max_bytes: int) -> int | None:
    """Search with a limit on memory, so that the allocator fails."""
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    return measure_trial(config, spec, accumulate=True)


@pytest.mark.slow
def test_real_trials_run_out_of_memory_in_both_ways(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process above the limit is killed, and a failing allocation raises an error; the result is below both."""
    config = composed("dense", "modern", "size=nano", *SMALL, "training.global_batch_size=256")
    large, small = (partial(measure_trial, with_micro_batch(config, size), spec, accumulate=True) for size in (256, 1))
    with pytest.raises(BrokenProcessPool):
        run_in_subprocess(large, max_bytes=GIB)
    assert run_in_subprocess(partial(find_within_limit, with_micro_batch(config, 256), spec, 2 * GIB)) is None
    peak = run_in_subprocess(small, max_bytes=GIB)
    assert peak is not None and peak < GIB
    monkeypatch.setattr(runtime_device, "available_bytes", lambda: GIB)
    size_found, messages = find(config, spec)
    assert 1 < size_found < 256 and len(messages) == 1
