"""Run commands in forks of a process that has torch loaded and has computed nothing: half a second each."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # the first optimizer loads it, for a second in every fork

from src import estimate, evaluate, export, generate, prepare, report, tune
from src.cli.compose import run_cli
from src.reporting.output import write
from src.sweep import job_process
from tests.integration import tiny
from tests.torture import operations

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
class Ended:
    """How a command ended."""

    status: int
    """Its exit status; negative: the signal that killed it."""
    said: str
    """Standard output and standard error, as they came."""
    seconds: float
    opened: set[str] = field(default_factory=set)
    """Paths that it opened, if they were asked for."""
    operations: int = 0
    """How many operations on files it has done, if they were counted."""

    @property
    def errors(self) -> list[str]:
        """The lines that report an error."""
        return [line for line in self.said.splitlines() if line.startswith("error:")]


def run(
    command: str,
    arguments: list[str],
    *,
    kill_before: int | None = None,
    watch: Path | None = None,
    seconds: float = 60,
) -> Ended:
    """Run a command in a fork.

    kill_before: the number of the operation on files before which it is killed; all are counted in any case.
    watch: note which files below this folder are opened. seconds: after which it is killed, as if it hung.
    """
    with tempfile.TemporaryDirectory(prefix="forked-") as name:
        folder = Path(name)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _be_the_command(command, arguments, folder, kill_before, watch)
        status = _wait(child, seconds)
        said = (folder / "said").read_text(encoding="utf-8", errors="replace")
        opened = (folder / "opened").read_text().split("\n") if (folder / "opened").exists() else []
        count = (folder / "count").read_text() if (folder / "count").exists() else "0"
        return Ended(status, said, time.monotonic() - started, set(opened), int(count or 0))


def _wait(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGALRM
        time.sleep(0.005)


def _be_the_command(
    command: str, arguments: list[str], folder: Path, kill_before: int | None, watch: Path | None
) -> None:
    """Be the fork: never return."""
    status = 70
    try:
        out = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        sys.stdin = open(os.devnull)  # noqa: SIM115 (for as long as the process lives)
        job_process.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedProcess})  # pyright: ignore
        write.to_png = lambda figure: b"drawn elsewhere"  # most of the time of a report
        torch.set_num_threads(1)
        opened = _watch_opened(watch or folder)
        count = operations.kill_before(kill_before)
        status = MAINS[command](arguments)
        (folder / "count").write_text(str(count[0]))
        if watch is not None:
            (folder / "opened").write_text("\n".join(opened))
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch_opened(folder: Path) -> set[str]:
    """Note which files below a folder this process opens."""
    opened, prefix = set[str](), str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(prefix):
            opened.add(str(arguments[0]))

    sys.addaudithook(hook)
    return opened


class ForkedProcess:
    """Stands in for the process of a job: a fork of the sweep, in place of a new interpreter."""

    def __init__(self, command: list[str], *, stdout: Any, **_: Any) -> None:
        assert command[1:3] == ["-m", "src.train"], command
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.dup2(stdout.fileno(), 1)
                os.dup2(stdout.fileno(), 2)
                status = tiny.train_main(command[3:])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

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
    """Prepare the small corpus in a fork: the tokenizer's threads would not survive the forks to come."""
    child = os.fork()
    if child == 0:
        tiny._prepare(root, 0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    (data,) = (folder for folder in (root / "outputs" / "data").iterdir() if folder.is_dir())
    return data
