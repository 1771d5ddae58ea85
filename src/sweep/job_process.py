"""Run each job in a child process, so that a crash or out of memory affects only that job.

The child writes to a file, not a pipe, so it continues if its parent is killed. For a job of several processes it is
torchrun, which exits as they do (`src/runtime/torchrun.py`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any, BinaryIO

from src.config.schema import SweepConfig
from src.runtime.host import PROCESS_THREADS, VISIBLE_GPUS
from src.runtime.run_lock import is_run_locked
from src.runtime.signals import stop_signal
from src.runtime.torchrun import SHUTDOWN_S, torchrun_command
from src.sweep.job_resources import JobResources
from src.sweep.job_store import Job, JobStore

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
POLL_S = 0.1
GRACE_S = SHUTDOWN_S + 10
"""Seconds between the stop signal at the timeout and the kill; torchrun kills its processes before."""
ONE_PROCESS = JobResources()


def run_job(
    store: JobStore,
    job: Job,
    config: SweepConfig,
    start_over: bool = False,
    resources: JobResources = ONE_PROCESS,
) -> int:
    """Run one job unless it is done, record the result, and return its exit code (negative: killed by a signal).

    A failed job is retried up to `config.retries` times, from its last checkpoint.
    """
    if store.is_done(job) and not start_over:
        store.record(job, "done", 0)
        return 0
    if config.skip_diverged and store.has_diverged(job) and not start_over:
        return 1
    exit_code = 0
    for attempt in range(1 + config.retries):
        again = ["rerun=false"] if attempt else []  # a retry resumes
        with resources.pool.reserve() if resources.pool else nullcontext(None) as gpus:
            exit_code = _run_attempt(store, job, config, again, resources, gpus)
        if store.status(job) != "failed":
            break
    return exit_code


def join_job(store: JobStore, job: Job, config: SweepConfig, start_over: bool, resources: JobResources) -> int:
    """Run this host's processes of a job that another host records, and return their exit code.

    Their output goes to that of this process.
    """
    if not start_over and (store.is_done(job) or (config.skip_diverged and store.has_diverged(job))):
        return 0
    child = subprocess.Popen(job_command(job, resources), env=job_environment(resources.threads, None))
    with _forward_signals(child) as deferred:
        exit_code = child.wait()
    for call_handler in deferred:
        call_handler()
    return exit_code


def job_command(job: Job, resources: JobResources) -> list[str]:
    """Return the command of a job's child process."""
    python = torchrun_command(*resources.torchrun) if resources.torchrun else [sys.executable, "-m"]
    return [*python, "src.train", *job.overrides]


def job_environment(threads: int | None, gpus: Sequence[str] | None) -> dict[str, str]:
    """Return the environment of a job's processes. threads, gpus: None leaves what this process has."""
    added = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", PROCESS_THREADS), str(threads))
    return {**os.environ, **added, **({} if gpus is None else {VISIBLE_GPUS: ",".join(gpus)})}


def _run_attempt(
    store: JobStore,
    job: Job,
    config: SweepConfig,
    more: list[str],
    resources: JobResources,
    gpus: Sequence[str] | None,
) -> int:
    store.record(job, "running", gpus=gpus)
    if _wait_for_orphan(store, job) and store.is_done(job):
        store.record(job, "done", 0)
        return 0
    log = store.log_of(job)
    with log.open("wb") as written, log.open("rb") as read:
        command, environment = [*job_command(job, resources), *more], job_environment(resources.threads, gpus)
        child = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, env=environment)
        with _forward_signals(child) as deferred:
            exit_code, timed_out = _wait(child, read, config)
    if exit_code > 128 and not stop_signal(exit_code):  # a signal has killed one of several processes
        exit_code = 128 - exit_code
    store.record_exit(job, exit_code, config.timeout if timed_out else None)
    for call_handler in deferred:  # progress is saved, so the launcher's handler may requeue the job or exit
        call_handler()
    return 1 if timed_out and stop_signal(exit_code) else exit_code


def _wait_for_orphan(store: JobStore, job: Job) -> bool:
    """Wait for a process of this job from an earlier, killed sweep; return whether there was one."""
    folder = store.run_dir(job)
    if not is_run_locked(folder):
        return False
    print(f"{job.run}: another process is working on it; waiting for its end", flush=True)
    while is_run_locked(folder):
        time.sleep(1.0)
    return True


def _wait(child: "subprocess.Popen[bytes]", log: BinaryIO, config: SweepConfig) -> tuple[int, bool]:
    """Wait for the child and print its output; return its exit code, and whether it timed out.

    The terminal sends Ctrl-C to the child as well, so it is ignored here.
    """
    started, stopped_at = time.monotonic(), None
    while True:
        try:
            exit_code = child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            exit_code = None
        except KeyboardInterrupt:
            continue
        output = log.read()
        if output and not config.live:
            sys.stdout.write(output.decode(errors="replace"))
            sys.stdout.flush()
        if exit_code is not None:
            return exit_code, stopped_at is not None
        now = time.monotonic()
        if stopped_at is None and config.timeout is not None and now - started > config.timeout:
            stopped_at = now
            child.terminate()
        elif stopped_at is not None and now - stopped_at > GRACE_S:
            child.kill()


@contextmanager
def _forward_signals(child: "subprocess.Popen[bytes]") -> Iterator[list[Callable[[], Any]]]:
    """Forward signals of schedulers to the child; yields calls of the previous handlers, for after its end."""
    before: dict[int, Any] = {}
    deferred: list[Callable[[], Any]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)
        if callable(before.get(number)):
            deferred.append(lambda: before[number](number, None))

    with suppress(ValueError):  # some launchers call this outside the main thread, which cannot handle signals
        before |= {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield deferred
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
