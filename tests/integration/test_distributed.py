"""Several processes give the result of one process; a killed run resumes bit-identically."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.integration.torture import differences, smallest_layer_count

STEPS = 20
ARCHITECTURES = ("dense", "mamba", "mamba1", "moe", "hybrid", "gated_deltanet")
"""Every kind of parameter and a mixture; other architectures consist of the same."""
SETTINGS = (
    *tiny.EVALUATION,
    f"training.max_steps={STEPS}",
    "training.global_batch_size=12",
    "training.eval_sequences=5",  # so that the processes have unequal shares
    "training.eval_every=10",
    "training.checkpoint_every=4",
    "schedule.warmup_steps=10",
)


def architecture_settings(architecture: str, *more: str) -> tuple[str, ...]:
    return (f"architecture={architecture}", f"size.n_layers={smallest_layer_count(architecture)}", *SETTINGS, *more)


def assert_close(folder: Path, other: Path, nats: float = 1e-5) -> None:
    """Compare every row of two runs: losses within `nats`, other values within rounding errors."""
    rows, others = tiny.read_rows(folder), tiny.read_rows(other)
    assert len(rows) == len(others) > STEPS
    for row, expected in zip(rows, others, strict=True):
        assert row.keys() == expected.keys()
        for key in row:
            if key.endswith("loss"):
                assert row[key] == pytest.approx(expected[key], rel=0, abs=nats), (row["step"], key)
            elif key.startswith("moe/") or key == "train/grad_norm":
                assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), (row["step"], key)
    stages, expected_stages = (read_json(run / "evaluation.json")["stages"] for run in (folder, other))
    for name, stage in stages.items():
        expected = expected_stages[name]
        assert stage.keys() == expected.keys()
        assert stage["test"]["language"]["loss"] == pytest.approx(expected["test"]["language"]["loss"], abs=nats)
        assert stage["probes"].keys() == expected["probes"].keys()
        assert len(stage["samples"]) == len(expected["samples"]) > 0


def train_with_two_processes(data: Path, root: Path, parallel: str, *more: str) -> Path:
    out = tiny.train_together(2, tiny.command_line(data, root, f"runtime.parallel={parallel}", *more))
    folder = tiny.only_run(root)
    held = {"replicate": "the whole model", "shard": "a part of the model"}[parallel]
    assert out.count(f"Device: CPU, precision fp32, 2 processes with {held} each, 1 CPU thread") == 1
    assert out.splitlines()[-1] == f"Run: {folder}"
    contract = read_json(folder / "summary.json")["contract"]
    assert (contract["processes"], contract["runtime.parallel"]) == (2, parallel)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "parallel"),
    [("moe", "replicate"), *((name, "shard") for name in ARCHITECTURES)],
)
def test_two_processes_give_the_result_of_one(architecture: str, parallel: str, data: Path, tmp_path: Path) -> None:
    compare_with_one_process(data, tmp_path, parallel, architecture_settings(architecture))


@pytest.mark.slow
def test_two_processes_round_moments_as_one_does(data: Path, tmp_path: Path) -> None:
    """Unless a sum of gradients, which has another order, moves a moment over the border of two codes."""
    more = architecture_settings("hybrid", "size.d_model=128", "training.memory=int8_moments")
    compare_with_one_process(data, tmp_path, "replicate", more, nats=1e-4)


@pytest.mark.slow
def test_two_processes_orthogonalize_as_one_does(data: Path, tmp_path: Path) -> None:
    compare_with_one_process(data, tmp_path, "replicate", architecture_settings("moe", "optimizer=muon"))


def compare_with_one_process(
    data: Path, tmp_path: Path, parallel: str, more: tuple[str, ...], nats: float = 1e-5
) -> None:
    assert tiny.run(data, tmp_path / "one", *more) == 0
    two = train_with_two_processes(data, tmp_path / "two", parallel, *more)
    assert_close(tiny.only_run(tmp_path / "one"), two, nats)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "parallel", "setting"),
    [
        *((arch, "shard", "optimizer=adamw") for arch in ARCHITECTURES),
        ("moe", "shard", "optimizer=muon"),
        ("hybrid", "replicate", "optimizer=muon"),
        ("dense", "replicate", "training.memory=int8_moments"),
    ],
)
def test_two_processes_resume_after_a_kill(
    architecture: str, parallel: str, setting: str, data: Path, tmp_path: Path
) -> None:
    more = architecture_settings(architecture, setting)
    uninterrupted, interrupted = (
        train_with_two_processes(data, tmp_path / "whole", parallel, *more),
        tmp_path / "broken",
    )
    arguments = tiny.command_line(data, interrupted, f"runtime.parallel={parallel}", *more)
    err = kill_last_rank(tiny.launch(2, arguments), interrupted, after_step=9)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: process 0 of 2: another process of the run has ended, so this one stops too; "
        "the same command goes on from the last checkpoint"
    ]
    assert read_json(tiny.only_run(interrupted) / "summary.json")["status"] == "failed"
    assert "Resuming stage language after step 8" in tiny.train_together(2, arguments)
    assert differences(uninterrupted, tiny.only_run(interrupted)) == []


def kill_last_rank(process: "subprocess.Popen[str]", root: Path, after_step: int) -> str:
    """Kill the last rank once `after_step` is logged, and return the output of the others."""
    tiny.wait_for_step(root, after_step, process)
    ranks = {int(worker.environ()["RANK"]): worker for worker in psutil.Process(process.pid).children()}
    ranks[max(ranks)].kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    return err


@pytest.mark.slow
def test_three_processes_stop_at_the_same_step_and_one_process_resumes(data: Path, tmp_path: Path) -> None:
    more = architecture_settings("hybrid", "training.checkpoint_every=1000", "stage=full", "runtime.parallel=shard")
    uninterrupted, interrupted, three = (tmp_path / name for name in ("whole", "broken", "three"))
    assert tiny.run(data, uninterrupted, *more) == 0
    tiny.train_together(3, tiny.command_line(data, three, *more))
    assert_close(tiny.only_run(uninterrupted), tiny.only_run(three))

    arguments = tiny.command_line(data, interrupted, *more)
    process = tiny.launch(3, arguments)
    tiny.wait_for_step(interrupted, 5, process)
    os.kill(process.pid, signal.SIGTERM)  # torchrun forwards it
    _, err = process.communicate(timeout=60)
    stopped = [line for line in err.splitlines() if line.startswith("Stopped by ")]
    assert stopped == [f"Stopped by SIGTERM; the same command goes on: {tiny.only_run(interrupted)}"]
    shutil.copytree(interrupted, single := tmp_path / "alone")
    tiny.train_together(3, arguments)
    assert differences(tiny.only_run(three), tiny.only_run(interrupted)) == []

    assert tiny.run(data, single, *more) == 0
    assert_close(tiny.only_run(uninterrupted), tiny.only_run(single))
    assert read_json(tiny.only_run(single) / "summary.json")["contract"]["processes"] == "3, then 1"


@pytest.mark.slow
def test_all_processes_end_when_their_run_is_removed(data: Path, tmp_path: Path) -> None:
    more = architecture_settings("dense", "training.max_steps=2000", "runtime.parallel=shard")
    process = tiny.launch(2, tiny.command_line(data, tmp_path, *more))
    tiny.wait_for_step(tmp_path, 5, process)
    folder = tiny.only_run(tmp_path)
    folder.rename(tmp_path / "elsewhere")
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {folder}: removed during training; the same command starts the run again"]


@pytest.mark.slow
def test_errors_are_printed_once_and_sweeps_are_rejected(data: Path, tmp_path: Path) -> None:
    process = tiny.launch(2, tiny.command_line(data, tmp_path, "training.global_batch_size=6"))
    _, err = process.communicate(timeout=60)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: training.global_batch_size=6: must be a multiple of the 2 processes of torchrun times "
        "training.micro_batch_size=2; for example 4"
    ]
    assert not (tmp_path / "runs").exists()
