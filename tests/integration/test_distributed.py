"""Several processes train what one would have trained; killed, they go on and end bit by bit as if undisturbed."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.integration.torture import ARCHITECTURES, differences, layers_of

STEPS = 20
SETTINGS = (
    f"training.max_steps={STEPS}",
    "training.global_batch_size=12",
    "training.eval_every=10",
    "training.checkpoint_every=4",
    "schedule.warmup_steps=10",
)


def launch(processes: int, arguments: list[str]) -> "subprocess.Popen[str]":
    return tiny.start(["--nproc-per-node", str(processes), "-m", "src.train", *arguments], "torch.distributed.run")


def train(processes: int, arguments: list[str]) -> str:
    """Train to the end, and return what was said."""
    process = launch(processes, arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def of_architecture(architecture: str, *more: str) -> tuple[str, ...]:
    return (f"architecture={architecture}", f"size.n_layers={layers_of(architecture)}", *SETTINGS, *more)


def assert_close(folder: Path, other: Path) -> None:
    """Compare every row of two runs: losses within 1e-5 nats, the rest of a step within rounding."""
    rows, others = tiny.rows(folder), tiny.rows(other)
    assert len(rows) == len(others) > STEPS
    for row, expected in zip(rows, others, strict=True):
        assert row.keys() == expected.keys()
        for key in row:
            if key.endswith("loss"):
                assert row[key] == pytest.approx(expected[key], rel=0, abs=1e-5), (row["step"], key)
            elif key.startswith("moe/") or key == "train/grad_norm":
                assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), (row["step"], key)


def train_by_two(data: Path, root: Path, *more: str) -> Path:
    out = train(2, tiny.command_line(data, root, *more))
    folder = tiny.only_run(root)
    assert out.count("Device: CPU, precision fp32, 2 processes, 1 CPU threads") == 1
    assert out.splitlines()[-1] == f"Run: {folder}"
    assert read_json(folder / "summary.json")["contract"]["processes"] == 2
    return folder


@pytest.mark.parametrize(
    "architecture", [arch if arch == "moe" else pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHITECTURES]
)
def test_two_processes_do_what_one_does(architecture: str, data: Path, tmp_path: Path) -> None:
    more = of_architecture(architecture)
    assert tiny.run(data, tmp_path / "one", *more) == 0
    assert_close(tiny.only_run(tmp_path / "one"), train_by_two(data, tmp_path / "two", *more))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_processes_resume_after_a_kill(architecture: str, data: Path, tmp_path: Path) -> None:
    more = of_architecture(architecture)
    whole, broken = train_by_two(data, tmp_path / "whole", *more), tmp_path / "broken"
    arguments = tiny.command_line(data, broken, *more)
    err = kill_one(launch(2, arguments), broken, after_step=9)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: process 0 of 2: another process of the run has ended, so this one stops too; "
        "the same command goes on from the last checkpoint"
    ]
    assert read_json(tiny.only_run(broken) / "summary.json")["status"] == "failed"
    assert "Resuming stage language after step 8" in train(2, arguments)
    assert differences(whole, tiny.only_run(broken)) == []


def kill_one(process: "subprocess.Popen[str]", root: Path, after_step: int) -> str:
    """Kill the last of the processes once `after_step` is logged, and return what the others said."""
    tiny.wait_for_step(root, after_step, process)
    ranks = {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()}
    ranks[max(ranks)].kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    return err


@pytest.mark.slow
def test_three_processes_stop_at_the_same_step_and_one_goes_on(data: Path, tmp_path: Path) -> None:
    more = of_architecture("hybrid", "training.checkpoint_every=1000", "stage=full")
    whole, broken, three = (tmp_path / name for name in ("whole", "broken", "three"))
    assert tiny.run(data, whole, *more) == 0
    train(3, tiny.command_line(data, three, *more))
    assert_close(tiny.only_run(whole), tiny.only_run(three))

    arguments = tiny.command_line(data, broken, *more)
    process = launch(3, arguments)
    tiny.wait_for_step(broken, 5, process)
    os.kill(process.pid, signal.SIGTERM)  # torchrun hands it on
    _, err = process.communicate(timeout=60)
    stopped = [line for line in err.splitlines() if line.startswith("Stopped by ")]
    assert stopped == [f"Stopped by SIGTERM; the same command goes on: {tiny.only_run(broken)}"]
    shutil.copytree(broken, alone := tmp_path / "alone")
    train(3, arguments)
    assert differences(tiny.only_run(three), tiny.only_run(broken)) == []

    assert tiny.run(data, alone, *more) == 0
    assert_close(tiny.only_run(whole), tiny.only_run(alone))
    assert read_json(tiny.only_run(alone) / "summary.json")["contract"]["processes"] == "3, then 1"


@pytest.mark.slow
def test_a_mistake_is_told_once_and_sweeps_are_refused(data: Path, tmp_path: Path) -> None:
    process = launch(2, tiny.command_line(data, tmp_path, "training.global_batch_size=6"))
    _, err = process.communicate(timeout=60)
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said == [
        "error: training.global_batch_size=6: must be a multiple of the 2 processes of torchrun times "
        "training.micro_batch_size=2; for example 4"
    ]
    assert not (tmp_path / "runs").exists()
