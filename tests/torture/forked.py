"""Run commands in forks of a process that has loaded torch and computed nothing: half a second per command."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # the first optimizer imports it, which takes a second in every fork

from src import estimate, evaluate, export, generate, prepare, report, tune
from src.cli.command import run_cli
from src.reporting.output import write
from src.sweep import job_process
from tests.integration import tiny
from tests.torture import operations
from tests.torture.fork import start_fork, wait_for_fork

MAINS: dict[str, Callable[[list[str]], int]] = {
    "train": tiny.train_main,
    "tune": lambda arguments: run_cli(lambda: tune.main(arguments)),
    "prepare": lambda arguments: run_cli(lambda: prepare.main(arguments)),
    "evaluate": lambda arguments: run_cli(lambda: evaluate.main(arguments)),
    "generate": lambda arguments: run_cli(lambda: generate.main(arguments)),
    "report": lambda arguments: run_cli(lambda: report.main(arguments)),
    "export": lambda arguments: run_cli(lambda: export.main(arguments)),
    "estimate": lambda arguments: run_cli(lambda: estimate.main(arguments)),
}


@dataclass
class CommandResult:
    """The result of a command."""

    status: int
    """Its exit status; negative: the signal that killed it."""
    output: str
    """Standard output and standard error, as they came."""
    seconds: float
    opened: set[str] = field(default_factory=set)
    """Paths that it opened, if they were asked for."""
    operations: int = 0
    """How many operations on files it has done, if they were counted."""

    @property
    def errors(self) -> list[str]:
        """The lines that report an error."""
        return [line for line in self.output.splitlines() if line.startswith("error:")]


def run(
    command: str,
    arguments: list[str],
    *,
    kill_before: int | None = None,
    watch: Path | None = None,
    seconds: float = 60,
) -> CommandResult:
    """Run a command in a fork.

    kill_before: the number of the file operation before which the process is killed; all operations are counted anyway.
    watch: record the opened files below this folder. seconds: timeout after which the process is killed.
    """
    with tempfile.TemporaryDirectory(prefix="forked-") as name:
        folder = Path(name)
        started = time.monotonic()
        action = partial(_run_command, command, arguments, folder, kill_before, watch)
        status = _wait(start_fork(action, folder / "output"), seconds)
        output = (folder / "output").read_text(encoding="utf-8", errors="replace")
        opened = (folder / "opened").read_text().split("\n") if (folder / "opened").exists() else []
        count = (folder / "count").read_text() if (folder / "count").exists() else "0"
        return CommandResult(status, output, time.monotonic() - started, set(opened), int(count or 0))


def _wait(fork_id: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(fork_id, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(fork_id, signal.SIGKILL)
            os.waitpid(fork_id, 0)
            return -signal.SIGALRM
        time.sleep(0.005)


def _run_command(command: str, arguments: list[str], folder: Path, kill_before: int | None, watch: Path | None) -> int:
    """Run a command in this process, which is a fork; write its counts into `folder`."""
    sys.stdin = open(os.devnull)  # noqa: SIM115 (for as long as the process lives)
    job_process.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedProcess})  # pyright: ignore
    write.to_png = lambda figure: b"drawn elsewhere"  # most of the time of a report is spent here
    torch.set_num_threads(1)
    opened = _watch_opened(watch or folder)
    count = operations.kill_before(kill_before)
    status = MAINS[command](arguments)
    (folder / "count").write_text(str(count[0]))
    if watch is not None:
        (folder / "opened").write_text("\n".join(opened))
    return status


def _watch_opened(folder: Path) -> set[str]:
    """Record which files below a folder this process opens."""
    opened, prefix = set[str](), str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(prefix):
            opened.add(str(arguments[0]))

    sys.addaudithook(hook)
    return opened


class ForkedProcess:
    """Replaces the process of a job by a fork of the sweep instead of a new interpreter."""

    def __init__(self, command: list[str], *, stdout: Any, **_: Any) -> None:
        assert command[1:3] == ["-m", "src.train"], command
        self.returncode: int | None = None
        self.pid = start_fork(partial(tiny.train_main, command[3:]), stdout.fileno())

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired("job", timeout)
            else:
                time.sleep(0.005)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def prepare_in_a_fork(root: Path) -> Path:
    """Prepare the small corpus in a fork, because the tokenizer's threads do not survive later forks."""
    assert wait_for_fork(start_fork(lambda: (tiny._prepare(root, 0), 0)[1])) == 0
    (data,) = (folder for folder in (root / "outputs" / "data").iterdir() if folder.is_dir())
    return data
