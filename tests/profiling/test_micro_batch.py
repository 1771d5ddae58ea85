"""What `training.micro_batch_size=auto` becomes, and what becomes of a trial that runs out of memory."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.config import TrainConfig, UserError
from src.model.matching import match_of
from src.profiling import micro_batch
from src.profiling.memory import in_own_process
from src.profiling.micro_batch import KILLED, find_micro_batch_size, problem_with
from src.runtime.device import Device
from src.runtime.distributed import World
from src.runtime.files import read_json, write_json
from tests.contract.small import composed
from tests.integration import tiny

CPU = Device("cpu", "fp32", 1)


def auto(*more: str) -> TrainConfig:
    return composed("dense", "modern", "training.micro_batch_size=auto", "training.global_batch_size=12", *more)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have trials fit up to the one number in the list that this returns, without trying."""
    most = [12]

    def pretend(action: Any, if_killed: str) -> str | None:
        return None if action.args[0] <= most[0] else if_killed

    monkeypatch.setattr(micro_batch, "in_own_process", pretend)
    return most


@pytest.mark.parametrize(
    ("most", "world", "chosen", "said"),
    [
        (12, World(), 12, "12 of 12 sequences at a time"),
        (5, World(), 4, f"4 of 12 sequences at a time; 12 {KILLED}; 6 {KILLED}"),
        (12, World(0, 2), 6, "6 of 6 sequences at a time"),
    ],
)
def test_the_largest_divisor_that_fits(most: int, world: World, chosen: int, said: str, fits: list[int]) -> None:
    fits[0], config, lines = most, auto(), []
    assert find_micro_batch_size(config, match_of(config).spec, replace(CPU, world=world), lines.append) == chosen
    assert lines == [f"training.micro_batch_size=auto: {said}"]


def test_nothing_is_tried_beyond_the_estimate(fits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    config, lines = auto("size=micro"), []
    monkeypatch.setattr("src.preflight.machine_bytes", lambda: 1_000_000_000)
    assert find_micro_batch_size(config, match_of(config).spec, CPU, lines.append) == 4
    assert lines == ["training.micro_batch_size=auto: 4 of 12 sequences at a time; as the estimate says"]


def test_where_not_even_one_fits_the_remedies_are_named(fits: list[int]) -> None:
    fits[0], config = 0, auto()
    with pytest.raises(
        UserError, match=r"micro_batch_size=1: out of memory; .* \(1 had its process killed\); for example"
    ):
        find_micro_batch_size(config, match_of(config).spec, CPU, print)


def test_a_killed_process_is_an_answer() -> None:
    assert in_own_process(partial(os._exit, 9), KILLED) == KILLED


@pytest.mark.slow
def test_a_trial_runs_out_of_memory_and_not_the_machine() -> None:
    config = auto("size=micro", "training.global_batch_size=32")
    spec, limit = match_of(config).spec, 1_000_000_000
    assert (
        in_own_process(partial(problem_with, 32, config, spec, CPU, limit)) == "ran out of the 1.00 GB that there are"
    )
    assert in_own_process(partial(problem_with, 1, config, spec, CPU, limit), KILLED) is None


def test_a_run_decides_once(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.data_dir(tmp_path_factory)
    more = ("training.micro_batch_size=auto", "training.max_steps=2")
    assert tiny.run(data, tmp_path, *more) == 0
    folder = tiny.only_run(tmp_path)
    assert yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["training"]["micro_batch_size"] == 4

    write_json(folder / "summary.json", read_json(folder / "summary.json") | {"status": "interrupted"})
    monkeypatch.setattr(micro_batch, "find_micro_batch_size", None)  # calling it again would fail
    assert tiny.run(data, tmp_path, *more) == 0
