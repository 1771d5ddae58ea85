"""Killed runs, disk errors and removed folders: at most one error line, and the run resumes bit-identically."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.schema import ROOT
from src.runtime.atomic_files import read_json
from src.tracking.jsonl import JsonlLog
from src.training.checkpoint import read_checkpoint
from tests.integration import tiny
from tests.integration.torture import ARCHITECTURES, differences

MORE = ("architecture=dense", "training.max_steps=4")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architectures", "kills"),
    [(["mamba"], 4), (ARCHITECTURES, 12 * len(ARCHITECTURES))],
)
def test_a_run_killed_at_random_times_is_bit_identical(architectures: list[str], kills: int) -> None:
    process = tiny.start([str(kills), ",".join(architectures)], module="tests.integration.torture")
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert [line.split(":")[0] for line in out.splitlines()] == architectures
    assert sum(int(line.split()[1]) for line in out.splitlines()) >= kills


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    assert tiny.run(data, root, *MORE) == 0
    return tiny.only_run(root)


@contextmanager
def limit_file_size(n_bytes: int) -> Iterator[None]:
    """Limit the size to which files can grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def fail_with_os_error(patch: pytest.MonkeyPatch, where: Any, name: str, number: int, after: int) -> Iterator[None]:
    """Make a function raise OSError from its call number `after` on."""
    real, calls = getattr(where, name), iter(range(1_000_000))

    def refuse(*arguments: Any, **named: Any) -> Any:
        if next(calls) >= after:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    with patch.context() as context:
        context.setattr(where, name, refuse)
        yield


def assert_error_line_and_resume(
    failure: Callable[[], Any],
    message: str,
    data: Path,
    root: Path,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Check that a failing run prints one error line, leaves no temporary files, and resumes bit-identically."""
    capsys.readouterr()
    with failure():
        assert tiny.run(data, root, *MORE) == 2
    folder = tiny.only_run(root)
    err = capsys.readouterr().err
    assert err == f"error: {folder}: {message}, and the same command goes on\n"
    assert not list(folder.rglob(".*.tmp"))
    assert tiny.run(data, root, *MORE) == 0
    assert differences(uninterrupted, folder) == []


@pytest.mark.parametrize("n_bytes", [300, 100_000, 1_000_000])
def test_a_file_size_limit_is_a_one_line_error(
    n_bytes: int, data: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A metrics row, the weights, and the optimizer state: three libraries report the error differently."""
    message = f"{os.strerror(errno.EFBIG)}; raise ulimit -f"
    assert_error_line_and_resume(lambda: limit_file_size(n_bytes), message, data, tmp_path, uninterrupted, capsys)


@pytest.mark.parametrize(
    ("where", "name", "after", "number", "remedy"),
    [
        (os, "fsync", 0, errno.EDQUOT, "make room or have the quota raised"),
        (os, "fsync", 20, errno.ENOSPC, "make room"),
        (os, "replace", 0, errno.EROFS, "make it writable, or give another output_root"),
        (os, "rename", 3, errno.EIO, "check the disk"),
        (JsonlLog, "log", 4, errno.ENOSPC, "make room"),
    ],
)
def test_disk_errors_are_one_line_and_the_run_resumes(
    where: Any,
    name: str,
    after: int,
    number: int,
    remedy: str,
    data: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failure() -> Any:
        return fail_with_os_error(monkeypatch, where, name, number, after)

    message = f"{os.strerror(number)}; {remedy}"
    assert_error_line_and_resume(failure, message, data, tmp_path, uninterrupted, capsys)


@pytest.mark.parametrize(
    "function",
    ["src.training.loop.train_step", "src.runs.stage_runner.evaluate_windows", "src.runs.stage_runner.generate"],
)
def test_a_removed_run_folder_is_not_recreated(
    function: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, _, name = function.rpartition(".")
    real = getattr(__import__(module, fromlist=[name]), name)

    def remove(*arguments: Any, **named: Any) -> Any:
        (tmp_path / "runs").rename(tmp_path / "removed")  # at once: a thread may be writing a checkpoint
        shutil.rmtree(tmp_path / "removed")
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(function, remove)
        assert tiny.run(data, tmp_path, *MORE) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'runs'}") and err.count("\n") == 1
    assert err.endswith(": removed during training; the same command starts the run again\n")
    assert not list(tmp_path.iterdir())


KILL_WHILE_WRITING = """
import os, signal, sys, threading, time
from pathlib import Path
from src.training import checkpoint
from tests.integration.tiny import train_main

root, *arguments = sys.argv[1:]
write = checkpoint._write_meta

def kill(folder, meta):
    if folder.name.startswith(".last.") and meta["progress"]["step"] == 2:
        assert threading.current_thread() is not threading.main_thread()
        (rows,) = Path(root).glob("runs/*/metrics.jsonl")
        while '"step": 3,' not in rows.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, meta)

checkpoint._write_meta = kill
sys.exit(train_main(arguments))
"""
"""Trains, and is killed while a thread writes the checkpoint of step 2 and training has done step 3."""


def test_a_kill_while_training_goes_on_leaves_the_earlier_checkpoint(data: Path, tmp_path: Path) -> None:
    more, root = (*MORE, "training.checkpoint_every=1"), tmp_path / "killed"
    assert tiny.run(data, tmp_path / "whole", *more) == 0
    command = [sys.executable, "-c", KILL_WHILE_WRITING, str(root), *tiny.command_line(data, root, *more)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tiny.only_run(root)
    assert read_checkpoint(folder / "checkpoints" / "language" / "last").progress.step == 1
    assert tiny.run(data, root, *more) == 0
    assert differences(tiny.only_run(tmp_path / "whole"), folder) == []


def test_an_error_in_the_background_ends_the_run_at_the_next_row_of_metrics(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("architecture=dense", "training.max_steps=1000", "training.log_every=1", "training.checkpoint_every=2")
    with monkeypatch.context() as patch, fail_with_os_error(patch, torch, "save", errno.ENOSPC, after=1):
        assert tiny.run(data, tmp_path, *more) == 2
    folder = tiny.only_run(tmp_path)
    message = f"{os.strerror(errno.ENOSPC)}; make room, and the same command goes on"
    assert capsys.readouterr().err == f"error: {folder}: {message}\n"
    assert read_checkpoint(folder / "checkpoints" / "language" / "last").progress.step == 2
    assert tiny.read_rows(folder)[-1]["step"] in (4, 5), "the save of step 4 failed, that of step 6 was not reached"
    assert read_json(folder / "summary.json")["status"] == "failed"


def test_an_interrupted_rerun_leaves_no_finished_run(
    data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rerun that is interrupted while it removes the folder leaves a run that can be resumed."""
    folder = tmp_path / "runs" / uninterrupted.name
    shutil.copytree(uninterrupted, folder)

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        assert tiny.run(data, tmp_path, *MORE, "rerun=true") == 130
    assert tiny.run(data, tmp_path, *MORE) == 0
    assert differences(uninterrupted, folder) == []
