"""Records of the jobs of a sweep: one file per job, so that jobs of any launcher write without locks.

sweep.json            the jobs, in order
jobs/<run>.json       status, exit code and last error of a job that was started
jobs/<run>.log        output of its process in the last attempt
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

from src.cli.command_line import job_names
from src.config.schema import UserError
from src.runs.summary import Summary, read_summary
from src.runtime.records import child_path, find_record, read_record, run_path, write_record
from src.runtime.signals import stop_signal

T = TypeVar("T")
REMEDY = "repeat the command of the sweep, which writes it again"


@dataclass(frozen=True)
class Job:
    """One job of a sweep, identified by its run."""

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
    """Tokens of each stage, in order."""
    shared_tokens: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens of a stage's budget that its origin stage trains on; 0 except for branches."""
    flops_per_token: float | None = None
    """FLOPs of training; None in sweeps of earlier versions, as the next."""
    active_non_embedding_params: int | None = None


class SweepRecord(TypedDict):
    """The content of sweep.json."""

    format_version: Literal[1]
    name: str
    started: float
    look: NotRequired[int]
    """Look of `seeds=auto`, from 0; the report tests at its level."""
    jobs: list[Job]


class JobRecord(TypedDict):
    """The content of jobs/<run>.json."""

    status: Literal["running", "done", "failed", "interrupted"]
    exit_code: int | None
    error: str | None
    pid: int
    time: float
    """When this was recorded; of a running job, when the attempt began."""
    seconds: NotRequired[float | None]
    """How long the last attempt took."""
    started: NotRequired[float]
    """`started` of the sweep that recorded this: hosts have different clocks, so times of two are not compared."""
    gpus: NotRequired[list[str]]
    """The GPUs of the last attempt, where the sweep has assigned them."""


def status_of(summary: Summary | None, entry: JobRecord | None) -> str:
    """Return the status of a job from the summary of its run, which may be of another command, and its record."""
    if summary is not None and summary["status"] == "done":
        return "done"
    return "pending" if entry is None or entry["status"] == "done" else entry["status"]


def attempt_seconds(entry: JobRecord | None, now: float) -> float | None:
    """Return how long the last attempt at a job took, or takes until now."""
    if entry is None:
        return None
    return max(0.0, now - entry["time"]) if entry["status"] == "running" else entry.get("seconds")


class JobStore:
    """The files of a sweep directory. A file is read again only if it has changed: a sweep can have thousands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, tuple[tuple[int, ...] | None, Any]] = {}
        self._paths: dict[tuple[str, str], tuple[Path, Path]] = {}
        self._names: tuple[list[Job], list[str]] = [], []

    def read_once(self, path: str, read: Callable[[], T]) -> T:
        """Return the result of `read`, of an earlier call if the file is still the same: inode, size and time."""
        try:
            found = os.stat(path)
            version = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            version = None
        if path not in self._files or self._files[path][0] != version:
            self._files[path] = version, read()
        return self._files[path][1]

    def open(self, name: str, jobs: list[Job], look: int | None = None) -> None:
        record: dict[str, Any] = {"format_version": 1, "name": name, "started": time.time()}
        record |= {} if look is None else {"look": look}
        write_record(self.folder / "sweep.json", record | {"jobs": [asdict(job) for job in jobs]})
        (self.folder / "jobs").mkdir(exist_ok=True)

    def jobs(self) -> list[Job]:
        return self._sweep()[1]

    def names(self) -> list[str]:
        """Return a short name of each job, by what varies."""
        jobs = self.jobs()
        if self._names[0] is not jobs:
            self._names = jobs, job_names([job.architecture for job in jobs], [job.overrides for job in jobs])
        return self._names[1]

    def started(self) -> float:
        """Return when the sweep was last started, in seconds since the epoch."""
        return self._sweep()[0]

    def _sweep(self) -> tuple[float, list[Job]]:
        def read() -> tuple[float, list[Job]]:
            record = read_record(self.folder / "sweep.json", SweepRecord, REMEDY)
            return record["started"], [Job(**cast(dict[str, Any], job)) for job in record["jobs"]]

        return self.read_once(f"{self.folder}/sweep.json", read)

    def run_dir(self, job: Job) -> Path:
        """Return the run directory of a job. Raises: UserError if the record has an invalid path."""
        return self._job_paths(job)[0]

    def _job_paths(self, job: Job) -> tuple[Path, Path]:
        """Return the run directory and the record of a job, which are checked once."""
        key = job.run, job.run_dir
        if key not in self._paths:
            run_dir = run_path(self.folder, job.run, job.run_dir)
            self._paths[key] = run_dir, child_path(self.folder / "jobs", job.run, ".json")
        return self._paths[key]

    def is_done(self, job: Job) -> bool:
        """Return whether the run of a job is finished, also by another command."""
        return status_of(self.summary(job), None) == "done"

    def has_diverged(self, job: Job) -> bool:
        """Return whether a run has failed by divergence, which the same settings would repeat."""
        summary = self.summary(job)
        return summary is not None and summary["status"] == "failed" and "has diverged" in str(summary["error"])

    def record(
        self,
        job: Job,
        status: str,
        exit_code: int | None = None,
        error: str | None = None,
        gpus: Sequence[str] | None = None,
    ) -> None:
        """Record the status of a job. gpus: those of an attempt that begins."""
        now, entry = time.time(), self.entry(job)
        seconds = attempt_seconds(entry, now)
        assigned = gpus if status == "running" else (entry or {}).get("gpus")
        write_record(
            child_path(self.folder / "jobs", job.run, ".json"),
            {"status": status, "exit_code": exit_code, "error": error, "pid": os.getpid(), "time": now}
            | {"seconds": None if status == "running" else seconds, "started": self.started()}
            | ({} if assigned is None else {"gpus": list(assigned)}),
        )

    def record_exit(self, job: Job, exit_code: int, timeout: float | None = None) -> None:
        """Record how a job's process ended; a negative exit code is the signal that killed it.

        timeout: the seconds after which it was stopped, or None.
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
        return child_path(self.folder / "jobs", job.run, ".log")

    def _last_error(self, job: Job) -> str | None:
        """Return the error in the run's summary, or the last line of its process."""
        summary = self.summary(job)
        if summary is not None and summary["status"] == "failed":
            return summary["error"]
        log = self.log_of(job)
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), None)

    def states(self) -> dict[str, str]:
        """Return the status of every job: done, failed, interrupted, running or pending (also: run removed)."""
        return {job.run: self.status(job) for job in self.jobs()}

    def status(self, job: Job) -> str:
        return status_of(self.summary(job), self.entry(job))

    def error(self, job: Job) -> str | None:
        entry = self.entry(job)
        return entry and entry["error"]

    def has_failed(self) -> bool:
        """Return whether a job has failed since the sweep was last started."""
        started = self.started()
        entries = [self.entry(job) for job in self.jobs()]
        return any(entry and entry["status"] == "failed" and entry.get("started") == started for entry in entries)

    def entry(self, job: Job) -> JobRecord | None:
        """Read the record of a job; None if it is missing or damaged: the job then counts as pending."""
        path = self._job_paths(job)[1]
        return self.read_once(str(path), lambda: find_record(path, JobRecord))

    def summary(self, job: Job) -> Summary | None:
        """Read the summary of a job's run; None if it is damaged, which the job itself reports."""
        folder = self.run_dir(job)

        def read() -> Summary | None:
            try:
                return read_summary(folder)
            except UserError:
                return None

        return self.read_once(f"{folder}/summary.json", read)
