"""One child process a job: what kills it, runs out of memory in it or leaks from it stays in it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from src.sweep.ledger import Job, Ledger

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def run_job(ledger: Ledger, job: Job, start_over: bool = False) -> int:
    """Run one job unless it is done, record how it ended, and return its exit code (negative: killed by a signal)."""
    if ledger.is_done(job) and not start_over:
        ledger.record(job, "done", 0)
        return 0
    ledger.record(job, "running")
    child = subprocess.Popen([sys.executable, "-m", "src.train", *job.overrides])
    with _forward(child):
        exit_code = _wait(child)
    ledger.record_exit(job, exit_code)
    return exit_code


def _wait(child: "subprocess.Popen[bytes]") -> int:
    """Wait for the child; Ctrl-C reaches it from the terminal by itself, so here it only means to wait on."""
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


@contextmanager
def _forward(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Hand signals that schedulers send to the parent on to the child."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    try:
        before = {number: signal.signal(number, hand_on) for number in FORWARDED}
    except ValueError:  # not the main thread, as under some launchers: then signals are not ours to handle
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
