"""A killed sweep uses the saved checkpoints when its command is repeated, and gives the same result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from src.config.schema import ROOT
from src.reporting import load_runs
from tests.integration import tiny

LONG = ("training.max_steps=400", "training.eval_every=100", "training.checkpoint_every=20", "training.log_every=20",
        "evaluation.enabled=false", "seed=0,1")  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert tiny.train_main(["-m", *tiny.command_line(data, root, *LONG)]) == 0
    return tiny.hash_weights(root)


def start_sweep(data: Path, root: Path, seed: int) -> "subprocess.Popen[str]":
    """Start the sweep and wait until the run of this seed has saved a checkpoint."""
    sweep = tiny.start(
        ["-m", *tiny.command_line(data, root, *LONG)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    tiny.wait_until(lambda: find_checkpoints(root, seed), sweep)
    return sweep


def find_checkpoints(root: Path, seed: int) -> list[Path]:
    return list(root.glob(f"runs/*-s{seed}-*/checkpoints/language/last/meta.json"))


def print_report(root: Path) -> str:
    (folder,) = (root / "sweeps").iterdir()
    command = [sys.executable, "-m", "src.report", f"dir={folder}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def repeat_sweep(data: Path, root: Path) -> str:
    done = tiny.start(["-m", *tiny.command_line(data, root, *LONG)], stderr=subprocess.STDOUT)
    out, _ = done.communicate(timeout=300)
    assert done.returncode == 0, out
    return out


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_killed_with_its_job_gives_the_same_result(
    data: Path, tmp_path: Path, uninterrupted: dict[str, str], seed: int
) -> None:
    sweep = start_sweep(data, tmp_path, seed)
    for child in psutil.Process(sweep.pid).children(recursive=True):
        child.kill()
    sweep.kill()
    sweep.wait(timeout=30)
    report_text = print_report(tmp_path)
    assert "running" in report_text and ("pending" in report_text) == (seed == 0)
    assert "Resuming stage language after step" in repeat_sweep(data, tmp_path)
    assert tiny.hash_weights(tmp_path) == uninterrupted
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert list(load_runs(folder)["status"]) == ["done", "done"]


@pytest.mark.slow
def test_a_job_that_outlives_its_sweep_is_awaited(data: Path, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    sweep = start_sweep(data, tmp_path, 0)
    (job,) = [child for child in psutil.Process(sweep.pid).children() if "src.train" in " ".join(child.cmdline())]
    job.suspend()
    sweep.kill()
    sweep.wait(timeout=30)
    assert "running" in print_report(tmp_path)
    second_sweep = tiny.start(["-m", *tiny.command_line(data, tmp_path, *LONG)], stderr=subprocess.STDOUT)
    time.sleep(8)
    assert second_sweep.poll() is None, "it waits"
    job.resume()
    out, _ = second_sweep.communicate(timeout=300)
    assert second_sweep.returncode == 0 and "another process is working on it; waiting for its end" in out
    assert "Resuming" not in out and tiny.hash_weights(tmp_path) == uninterrupted


@pytest.mark.slow
def test_a_job_killed_by_sigkill_is_retried(data: Path, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    arguments = ["-m", *tiny.command_line(data, tmp_path, *LONG, "sweep.retries=1")]
    sweep = tiny.start(arguments, stderr=subprocess.STDOUT)
    tiny.wait_until(lambda: find_checkpoints(tmp_path, 0), sweep)
    for child in psutil.Process(sweep.pid).children():
        child.kill()
    out, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, out
    assert "Resuming stage language after step" in out and tiny.hash_weights(tmp_path) == uninterrupted


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once_and_keeps_checkpoints(data: Path, tmp_path: Path) -> None:
    sweep: Any = start_sweep(data, tmp_path, 0)
    for _ in range(2):
        os.killpg(sweep.pid, signal.SIGINT)
        time.sleep(0.2)
    assert sweep.wait(timeout=60) == 128 + signal.SIGINT
    statuses = list(load_runs(next((tmp_path / "sweeps").iterdir()))["status"])
    assert statuses[1] == "pending" and statuses[0] in ("interrupted", "running")
