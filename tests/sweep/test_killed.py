"""A sweep that is killed whole, by a signal that nobody can refuse: what was saved is used, and it ends the same."""

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
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert tiny.train_main(["-m", *tiny.command_line(data, root, *LONG)]) == 0
    return tiny.hash_weights(root)


def started(data: Path, root: Path, seed: int) -> "subprocess.Popen[str]":
    """Start the sweep, and wait until the run of this seed has saved something."""
    sweep = tiny.start(
        ["-m", *tiny.command_line(data, root, *LONG)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    tiny.wait_until(lambda: saved(root, seed), sweep)
    return sweep


def saved(root: Path, seed: int) -> list[Path]:
    return list(root.glob(f"runs/*-s{seed}-*/checkpoints/language/last/meta.json"))


def report(root: Path) -> str:
    (folder,) = (root / "sweeps").iterdir()
    command = [sys.executable, "-m", "src.report", f"dir={folder}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def again(data: Path, root: Path) -> str:
    done = tiny.start(["-m", *tiny.command_line(data, root, *LONG)], stderr=subprocess.STDOUT)
    out, _ = done.communicate(timeout=300)
    assert done.returncode == 0, out
    return out


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_killed_with_its_job_ends_the_same(
    data: Path, tmp_path: Path, undisturbed: dict[str, str], seed: int
) -> None:
    sweep = started(data, tmp_path, seed)
    for child in psutil.Process(sweep.pid).children(recursive=True):
        child.kill()
    sweep.kill()
    sweep.wait(timeout=30)
    told = report(tmp_path)
    assert "running" in told and ("pending" in told) == (seed == 0)
    assert "Resuming stage language after step" in again(data, tmp_path)
    assert tiny.hash_weights(tmp_path) == undisturbed
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert list(load_runs(folder)["status"]) == ["done", "done"]


@pytest.mark.slow
def test_a_job_that_outlives_its_sweep_is_awaited(data: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    sweep = started(data, tmp_path, 0)
    (job,) = [child for child in psutil.Process(sweep.pid).children() if "src.train" in " ".join(child.cmdline())]
    job.suspend()
    sweep.kill()
    sweep.wait(timeout=30)
    assert "running" in report(tmp_path)
    second = tiny.start(["-m", *tiny.command_line(data, tmp_path, *LONG)], stderr=subprocess.STDOUT)
    time.sleep(8)
    assert second.poll() is None, "it waits"
    job.resume()
    out, _ = second.communicate(timeout=300)
    assert second.returncode == 0 and "another process is working on it; waiting for its end" in out
    assert "Resuming" not in out and tiny.hash_weights(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_job_killed_by_sigkill_is_retried(data: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    arguments = ["-m", *tiny.command_line(data, tmp_path, *LONG, "sweep.retries=1")]
    sweep = tiny.start(arguments, stderr=subprocess.STDOUT)
    tiny.wait_until(lambda: saved(tmp_path, 0), sweep)
    for child in psutil.Process(sweep.pid).children():
        child.kill()
    out, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, out
    assert "Resuming stage language after step" in out and tiny.hash_weights(tmp_path) == undisturbed


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once_and_loses_nothing(data: Path, tmp_path: Path) -> None:
    sweep: Any = started(data, tmp_path, 0)
    for _ in range(2):
        os.killpg(sweep.pid, signal.SIGINT)
        time.sleep(0.2)
    assert sweep.wait(timeout=60) == 128 + signal.SIGINT
    statuses = list(load_runs(next((tmp_path / "sweeps").iterdir()))["status"])
    assert statuses[1] == "pending" and statuses[0] in ("interrupted", "running")
