"""Preparations that are killed and repeated, with varying batch sizes and threads, give the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.config.schema import ROOT
from src.data.dataset import VERIFIED
from src.data.sources import generated


def start(root: Path, batch_bytes: int, threads: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.data.run_preparation", str(root), str(batch_bytes)]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def contents(root: Path) -> dict[str, bytes]:
    (folder,) = (root / "outputs" / "data").glob("local-*")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != VERIFIED}


@pytest.mark.slow
def test_kills_at_random_times_leave_the_same_data(tmp_path: Path) -> None:
    texts = {
        "stories.txt": [document.text for document in generated.generate_stories(1, 400_000)],
        "scripts.txt": [document.text for document in generated.generate_scripts(1, 400_000)],
    }
    for name, documents in texts.items():
        (tmp_path / name).write_text("\n<|endoftext|>\n".join(documents))
    started = time.monotonic()
    first = start(tmp_path, 20_000, 2)
    assert "packed tokens" in first.communicate()[0]
    duration = time.monotonic() - started
    whole = contents(tmp_path)
    rng = random.Random(0)
    n_kills = n_resumed = 0
    for _ in range(4):
        shutil.rmtree(tmp_path / "outputs")
        for attempt in range(7):
            process = start(tmp_path, rng.choice([5_000, 20_000, 300_000]), rng.choice([1, 2]))
            try:
                # The last attempt is not killed, so that a slow machine can finish.
                timeout_s = rng.uniform(0.2, 1.0) * duration if attempt < 6 else None
                output, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
            n_resumed += "resuming" in output
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, output
            n_kills += 1
        assert contents(tmp_path) == whole
    assert n_kills >= 4 and n_resumed >= 2, (n_kills, n_resumed)


def kill_before(root: Path, every: int, first: int) -> None:
    command = [sys.executable, "-m", "tests.data.kill_before_operations", str(root), str(every), str(first)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_kills_before_some_file_operations_leave_the_same_data(tmp_path: Path) -> None:
    """The result is identical, and no other files remain."""
    kill_before(tmp_path, 240, 37)


@pytest.mark.slow
def test_kills_before_any_file_operation_leave_the_same_data(tmp_path: Path) -> None:
    kill_before(tmp_path, 3, 0)
