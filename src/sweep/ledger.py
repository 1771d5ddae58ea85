"""What became of each job of a sweep: a file a job, so that jobs of any launcher can write without waiting.

sweep.json            the jobs, in order
jobs/<run>.json       status, exit code and last error of a job that was started
jobs/<run>.log        what its process said, in its last attempt
"""

import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.runtime.files import read_json, write_json
from src.runtime.signals import stop_signal


@dataclass(frozen=True)
class Job:
    """One job of a sweep, known by the run that it makes."""

    run: str
    run_dir: str
    """Relative to the sweep directory."""
    overrides: list[str]
    architecture: str
    size: str
    recipe: str
    stage: str
    data: str
    seed: int
    stage_tokens: dict[str, int] = field(default_factory=dict[str, int])
    """How many tokens each stage trains on, in order."""


class Ledger:
    """The record of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, name: str, jobs: list[Job]) -> None:
        write_json(
            self.folder / "sweep.json",
            {"format_version": 1, "name": name, "started": time.time(), "jobs": [asdict(job) for job in jobs]},
        )
        (self.folder / "jobs").mkdir(exist_ok=True)

    def jobs(self) -> list[Job]:
        return [Job(**job) for job in read_json(self.folder / "sweep.json")["jobs"]]

    def is_done(self, job: Job) -> bool:
        """Tell by the run itself, which may have been finished outside of this sweep."""
        return self._summary(job).get("status") == "done"

    def has_diverged(self, job: Job) -> bool:
        """Tell whether a run has failed because of its learning rate: with the same settings it will again."""
        summary = self._summary(job)
        return summary.get("status") == "failed" and "has diverged" in str(summary.get("error"))

    def record(self, job: Job, status: str, exit_code: int | None = None, error: str | None = None) -> None:
        write_json(
            self.folder / "jobs" / f"{job.run}.json",
            {"status": status, "exit_code": exit_code, "error": error, "pid": os.getpid(), "time": time.time()},
        )

    def record_exit(self, job: Job, exit_code: int, timeout: float | None = None) -> None:
        """Note how a job's process ended; a negative exit code is the signal that killed it.

        timeout: the seconds after which it was stopped, if it was.
        """
        if exit_code == 0 and self.is_done(job):
            self.record(job, "done", 0)
        elif timeout is not None:
            self.record(job, "failed", exit_code, f"took more than sweep.timeout={timeout:g} s")
        elif number := stop_signal(exit_code):
            self.record(job, "interrupted", exit_code, f"stopped by {signal.Signals(number).name}")
        elif exit_code < 0:
            name = signal.Signals(-exit_code).name
            hint = " (out of memory?)" if -exit_code == signal.SIGKILL else ""
            self.record(job, "failed", exit_code, f"killed by {name}{hint}")
        else:
            self.record(job, "failed", exit_code, self._last_error(job) or f"exit status {exit_code}")

    def log_of(self, job: Job) -> Path:
        return self.folder / "jobs" / f"{job.run}.log"

    def _last_error(self, job: Job) -> str | None:
        """Return what the run says of its failure, or the last line of its process."""
        summary = self._summary(job)
        if summary.get("status") == "failed":
            return summary["error"]
        log = self.log_of(job)
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), None)

    def states(self) -> dict[str, str]:
        """Return the status of every job: done, failed, interrupted, running or pending (its run removed, too)."""
        return {job.run: self.status(job) for job in self.jobs()}

    def status(self, job: Job) -> str:
        if self.is_done(job):
            return "done"
        status = self._entry(job).get("status", "pending")
        return "pending" if status == "done" else status

    def error(self, job: Job) -> str | None:
        return self._entry(job).get("error")

    def has_failed(self) -> bool:
        """Tell whether a job has failed since the sweep was started or went on."""
        started = read_json(self.folder / "sweep.json")["started"]
        entries = [self._entry(job) for job in self.jobs()]
        return any(entry.get("status") == "failed" and entry.get("time", 0) >= started for entry in entries)

    def _entry(self, job: Job) -> dict[str, Any]:
        return _read_or_empty(self.folder / "jobs" / f"{job.run}.json")

    def _summary(self, job: Job) -> dict[str, Any]:
        return _read_or_empty(self.folder / job.run_dir / "summary.json")


def _read_or_empty(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
