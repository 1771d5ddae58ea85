"""One child process a job: what kills it, runs out of memory in it or leaks from it stays in it.

The child writes into a file and not to a pipe, so that it goes on if the process that waits for it is killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, BinaryIO

from src.config.schema import SweepConfig
from src.runtime.run_lock import is_run_locked
from src.runtime.signals import stop_signal
from src.sweep.job_store import Job, JobStore

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
POLL_S = 0.1
GRACE_S = 60
"""After its time is up, a job has so many seconds to save and stop before it is killed."""


def run_job(
    store: JobStore, job: Job, config: SweepConfig, start_over: bool = False, threads: int | None = None
) -> int:
    """Run one job unless it is done, record how it ended, and return its exit code (negative: killed by a signal).

    A job that fails is tried again as often as `config` says, and goes on from its last checkpoint.
    threads: how many CPU threads its process takes by default.
    """
    if store.is_done(job) and not start_over:
        store.record(job, "done", 0)
        return 0
    if config.skip_diverged and store.has_diverged(job) and not start_over:
        return 1
    exit_code = 0
    for attempt in range(1 + config.retries):
        again = ["rerun=false"] if attempt else []  # to start over once is enough
        exit_code = _run_attempt(store, job, config, again, threads)
        if store.status(job) != "failed":
            break
    return exit_code


def _run_attempt(store: JobStore, job: Job, config: SweepConfig, more: list[str], threads: int | None) -> int:
    store.record(job, "running")
    if _wait_for_orphan(store, job) and store.is_done(job):
        store.record(job, "done", 0)
        return 0
    log = store.log_of(job)
    with log.open("wb") as written, log.open("rb") as read:
        command = [sys.executable, "-m", "src.train", *job.overrides, *more]
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads)) if threads else None
        child = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, env=environment)
        with _forward(child) as asked:
            exit_code, timed_out = _wait(child, read, config)
    store.record_exit(job, exit_code, config.timeout if timed_out else None)
    for hand_back in asked:  # now that all is saved, whoever listened before may queue the job again, or end
        hand_back()
    return 1 if timed_out and stop_signal(exit_code) else exit_code


def _wait_for_orphan(store: JobStore, job: Job) -> bool:
    """Wait for a process of this job that outlived its sweep and has the run. Tell whether there was one."""
    folder = store.run_dir(job)
    if not is_run_locked(folder):
        return False
    print(f"{job.run}: another process is at work on it; waiting for its end", flush=True)
    while is_run_locked(folder):
        time.sleep(1.0)
    return True


def _wait(child: "subprocess.Popen[bytes]", log: BinaryIO, config: SweepConfig) -> tuple[int, bool]:
    """Wait for the child and show what it says; return its exit code, and whether its time was up.

    Ctrl-C reaches it from the terminal by itself, so here it only means to wait on.
    """
    started, asked_at = time.monotonic(), None
    while True:
        try:
            exit_code = child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            exit_code = None
        except KeyboardInterrupt:
            continue
        said = log.read()
        if said and not config.live:
            sys.stdout.write(said.decode(errors="replace"))
            sys.stdout.flush()
        if exit_code is not None:
            return exit_code, asked_at is not None
        now = time.monotonic()
        if asked_at is None and config.timeout is not None and now - started > config.timeout:
            asked_at = now
            child.terminate()
        elif asked_at is not None and now - asked_at > GRACE_S:
            child.kill()


@contextmanager
def _forward(child: "subprocess.Popen[bytes]") -> Iterator[list[Callable[[], Any]]]:
    """Hand signals that schedulers send to the parent on to the child; yields what its own handlers are to do then."""
    before: dict[int, Any] = {}
    asked: list[Callable[[], Any]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)
        if callable(before.get(number)):
            asked.append(lambda: before[number](number, None))

    with suppress(ValueError):  # not the main thread, as under some launchers: then signals are not ours to handle
        before |= {number: signal.signal(number, hand_on) for number in FORWARDED}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
