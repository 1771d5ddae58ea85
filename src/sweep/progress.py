"""Read how far the jobs of a sweep are, for the table in the terminal and the live page.

It only reads the job records, summaries and metrics.jsonl, so it works with any launcher and cannot disturb a job.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from src.config.formatting import NOTHING, show_time
from src.runs.summary import Summary
from src.sweep.job_store import Job, JobRecord, JobStore, attempt_seconds, status_of

TAIL_BYTES = 20_000
STATUSES = ("done", "running", "failed", "interrupted", "pending")
OPEN = ("running", "pending")
COLUMNS: tuple[str, ...] = ("job", "phase", "done", "elapsed", "left", "val loss", "tokens/s")
"""The headings of `show_cells`."""


class JobProgress(NamedTuple):
    """Progress of a job."""

    name: str
    run: str
    architecture: str
    status: str
    phase: str
    """waiting, starting, training, evaluating, done, failed or interrupted."""
    stage: str | None
    """The stage that it trains, if it has several."""
    share: float
    """Fraction of the tokens of all its stages."""
    val_loss: float | None
    tokens_per_second: float | None
    elapsed_s: float | None
    """Of its last attempt."""
    left_s: float | None
    error: str | None


class SweepProgress(NamedTuple):
    """Progress of all jobs."""

    jobs: list[JobProgress]
    elapsed_s: float
    """Since the command was given last."""
    left_s: float | None
    """None while no speed of a job is known."""
    changed: float
    """When a job started or ended last, in seconds since the epoch."""

    @property
    def is_over(self) -> bool:
        """Whether no job runs or waits."""
        return all(job.status not in OPEN for job in self.jobs)

    @property
    def share(self) -> float:
        """The fraction of the jobs that is done, parts of jobs included."""
        return fmean(job.share for job in self.jobs)


def show_cells(job: JobProgress) -> list[str]:
    """Write the progress of a job, in the order of COLUMNS."""
    return [
        job.name,
        " ".join(filter(None, (job.phase, job.stage))),
        NOTHING if job.status == "pending" else f"{job.share:.0%}",
        show_time(job.elapsed_s),
        show_time(job.left_s),
        NOTHING if job.val_loss is None else f"{job.val_loss:.3f}",
        NOTHING if job.tokens_per_second is None else f"{job.tokens_per_second:,.0f}",
    ]


def show_totals(progress: SweepProgress) -> str:
    """Write how many jobs have each status, the time that has passed, and the time that is left."""
    states, words = [job.status for job in progress.jobs], {"pending": "waiting"}
    counts = ", ".join(f"{states.count(one)} {words.get(one, one)}" for one in STATUSES if one in states)
    parts = [counts, f"{show_time(progress.elapsed_s)} elapsed"]
    if not progress.is_over and progress.left_s is not None:
        parts.append(f"about {show_time(progress.left_s)} left")
    return "; ".join(parts)


class _Found(NamedTuple):
    """What the files of a job record."""

    job: Job
    status: str
    summary: Summary | None
    rows: list[dict[str, Any]]
    entry: JobRecord | None

    def tokens(self) -> int:
        """Return the tokens that are trained on, those of earlier stages included."""
        if self.status == "done":
            return sum(self.job.stage_tokens.values())
        if not self.rows:
            return 0
        stage, names = str(self.rows[-1]["stage"]), list(self.job.stage_tokens)
        before = sum(self.job.stage_tokens[name] for name in names[: names.index(stage)])
        return before + self.rows[-1]["tokens"] - self.job.shared_tokens.get(stage, 0)

    def tokens_per_second(self) -> float | None:
        if self.summary is not None and self.status == "done" and self.summary["final"]:
            return self.summary["final"]["tokens_per_second"]
        return _last(self.rows, "perf/tokens_per_second")

    def is_trained(self) -> bool:
        """Return whether every stage is finished, so that only the evaluation is missing."""
        stages = self.summary["stages"] if self.summary else {}
        return bool(self.job.stage_tokens) and all(name in stages for name in self.job.stage_tokens)


def read_sweep(store: JobStore, now: float | None = None) -> SweepProgress:
    """Read the progress of a sweep. now: seconds since the epoch."""
    now, started, jobs = now or time.time(), store.started(), store.jobs()
    names = store.names()
    found = [_read_job(store, job) for job in jobs]
    estimate = _TimeEstimate(found, now)
    progress = [_progress(name, each, estimate, now) for name, each in zip(names, found, strict=True)]
    at_once = max(1, sum(job.status == "running" for job in progress))
    left = [job.left_s for job in progress if job.status in OPEN]
    known = [seconds for seconds in left if seconds is not None]
    is_known = all(job.left_s is not None or job.phase == "evaluating" for job in progress if job.status in OPEN)
    left_s = max(sum(known) / at_once, max(known, default=0.0)) if is_known else None
    changed = max((each.entry["time"] for each in found if each.entry), default=started)
    return SweepProgress(progress, max(0.0, (now if left else changed) - started), left_s, changed)


def _read_job(store: JobStore, job: Job) -> _Found:
    summary, entry = store.summary(job), store.entry(job)
    status = status_of(summary, entry)
    path = f"{store.run_dir(job)}/metrics.jsonl"
    rows = [] if status == "pending" else store.read_once(path, lambda: _last_rows(path))
    rows = rows if rows and rows[-1].get("stage") in job.stage_tokens else []
    return _Found(job, status, summary, rows, entry)


class _TimeEstimate:
    """The time that jobs take, from the measured speeds of others: of the same model, or else by FLOPs."""

    def __init__(self, found: Sequence[_Found], now: float) -> None:
        self.speeds: dict[tuple[str, str], list[float]] = {}
        self.flops_per_second: list[float] = []
        evaluations: list[float] = []
        for each in found:
            if not (speed := each.tokens_per_second()):
                continue
            self.speeds.setdefault((each.job.architecture, each.job.size), []).append(speed)
            if each.job.flops_per_token:
                self.flops_per_second.append(speed * each.job.flops_per_token)
            if each.status == "done" and (seconds := attempt_seconds(each.entry, now)):
                rest = seconds - each.tokens() / speed
                evaluations += [rest] if rest > 0 else []  # otherwise an attempt that only resumed
        self.evaluation_s = median(evaluations) if evaluations else None
        """Start, compilation, evaluation and samples of a job."""

    def left(self, each: _Found) -> float | None:
        """Return the seconds that are left of a job; None: nothing is known of it."""
        if each.status == "running" and each.is_trained():
            return self.evaluation_s
        own = self.speeds.get((each.job.architecture, each.job.size))
        speed = each.tokens_per_second() or (fmean(own) if own else None)
        if not speed and self.flops_per_second and each.job.flops_per_token:
            speed = fmean(self.flops_per_second) / each.job.flops_per_token
        tokens = sum(each.job.stage_tokens.values()) - each.tokens()
        return max(0, tokens) / speed + (self.evaluation_s or 0.0) if speed else None


def _progress(name: str, each: _Found, estimate: _TimeEstimate, now: float) -> JobProgress:
    job, status = each.job, each.status
    total = sum(job.stage_tokens.values())
    phase, stage = {"pending": "waiting"}.get(status, status), None
    if status == "running":
        phase = "evaluating" if each.is_trained() else "training" if each.rows else "starting"
    if phase == "training" and len(job.stage_tokens) > 1:
        stage = str(each.rows[-1]["stage"])
    return JobProgress(
        name,
        job.run,
        job.architecture,
        status,
        phase,
        stage,
        min(1.0, each.tokens() / total) if total else 0.0,
        _last(each.rows, "val/loss"),
        each.tokens_per_second(),
        None if status == "pending" else attempt_seconds(each.entry, now),
        estimate.left(each) if status in OPEN else None,
        each.entry["error"] if each.entry and status in ("failed", "interrupted") else None,
    )


def _last_rows(path: str) -> list[dict[str, Any]]:
    try:
        with Path(path).open("rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - TAIL_BYTES))
            lines = handle.read().splitlines()
    except OSError:
        return []
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # cut off at the start, or partly written
            continue
        if isinstance(row, dict) and isinstance(row.get("tokens"), int):
            rows.append(row)
    return rows


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    return next((row[key] for row in reversed(rows) if row.get(key) is not None), None)
