"""What became of each job of a sweep: a file a job, so that jobs of any launcher can write without waiting.

sweep.json            the jobs, in order
jobs/<run>.json       status, exit code and last error of a job that was started
"""

import os
import signal
from dataclasses import asdict, dataclass
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


class Ledger:
    """The record of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, name: str, jobs: list[Job]) -> None:
        write_json(
            self.folder / "sweep.json", {"format_version": 1, "name": name, "jobs": [asdict(job) for job in jobs]}
        )

    def jobs(self) -> list[Job]:
        return [Job(**job) for job in read_json(self.folder / "sweep.json")["jobs"]]

    def is_done(self, job: Job) -> bool:
        """Tell by the run itself, which may have been finished outside of this sweep."""
        summary = self.folder / job.run_dir / "summary.json"
        return summary.exists() and read_json(summary)["status"] == "done"

    def record(self, job: Job, status: str, exit_code: int | None = None, error: str | None = None) -> None:
        write_json(
            self.folder / "jobs" / f"{job.run}.json",
            {"status": status, "exit_code": exit_code, "error": error, "pid": os.getpid()},
        )

    def record_exit(self, job: Job, exit_code: int) -> None:
        """Note how a job's process ended; a negative exit code is the signal that killed it."""
        if exit_code == 0 and self.is_done(job):
            self.record(job, "done", 0)
        elif number := stop_signal(exit_code):
            self.record(job, "interrupted", exit_code, f"stopped by {signal.Signals(number).name}")
        elif exit_code < 0:
            name = signal.Signals(-exit_code).name
            hint = " (out of memory?)" if -exit_code == signal.SIGKILL else ""
            self.record(job, "failed", exit_code, f"killed by {name}{hint}")
        else:
            self.record(job, "failed", exit_code, self._last_error(job) or f"exit status {exit_code}")

    def _last_error(self, job: Job) -> str | None:
        summary = self.folder / job.run_dir / "summary.json"
        values: dict[str, Any] = read_json(summary) if summary.exists() else {}
        return values["error"] if values.get("status") == "failed" else None

    def states(self) -> dict[str, str]:
        """Return the status of every job: done, failed, interrupted, running or pending (its run removed, too)."""
        found = {}
        for job in self.jobs():
            path = self.folder / "jobs" / f"{job.run}.json"
            status = read_json(path)["status"] if path.exists() else "pending"
            found[job.run] = "done" if self.is_done(job) else "pending" if status == "done" else status
        return found
