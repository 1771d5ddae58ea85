"""Subprocesses: memory limit, stop signals, loss of the parent."""

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import psutil
import pytest

from src.config.schema import ROOT
from src.runtime.signals import Interrupted, StopRequest
from src.runtime.subprocess_pool import run_in_subprocess


def test_results_and_exceptions_are_passed_on() -> None:
    assert run_in_subprocess(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        run_in_subprocess(partial(operator.truediv, 1, 0), stop=StopRequest())


def hold(n_bytes: int) -> None:
    """Allocate memory for a minute, and return nothing: the pool would wait for the rest of a result half sent."""
    block = b"x" * n_bytes
    time.sleep(60)
    del block


def test_a_subprocess_over_its_memory_limit_ends() -> None:
    with pytest.raises(BrokenProcessPool):
        run_in_subprocess(partial(hold, 400 << 20), max_bytes=200 << 20)
    assert len(run_in_subprocess(partial(operator.mul, b"x", 1 << 20), max_bytes=200 << 20)) == 1 << 20


def test_a_stop_signal_ends_the_subprocess_at_once() -> None:
    stop = StopRequest()
    threading.Timer(0.5, lambda: stop.handle(signal.SIGTERM, None)).start()
    start = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"):
        run_in_subprocess(partial(time.sleep, 60), stop=stop)
    assert time.monotonic() - start < 30


def test_ctrl_c_does_not_wait_for_the_subprocess() -> None:
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_in_subprocess(partial(time.sleep, 60))
    signal.signal(signal.SIGINT, earlier)
    assert time.monotonic() - start < 30


BUSY = """
import time
from functools import partial
from src.runtime.subprocess_pool import run_in_subprocess
if __name__ == "__main__":
    run_in_subprocess(partial(time.sleep, 60))
"""
IDLE = """
import time
from src.runtime.subprocess_pool import make_process_pool
if __name__ == "__main__":
    with make_process_pool(2) as pool:
        list(pool.map(abs, range(9)))
        time.sleep(60)
"""


@pytest.mark.parametrize("script", [BUSY, IDLE])
def test_a_subprocess_ends_with_its_parent(script: str, tmp_path: Path) -> None:
    file = tmp_path / "wait.py"
    file.write_text(script)
    parent = subprocess.Popen([sys.executable, file], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline, sleepers = time.monotonic() + 30, []
    while not sleepers and time.monotonic() < deadline:
        time.sleep(0.05)
        children = psutil.Process(parent.pid).children()
        sleepers = [
            child for child in children if "spawn_main" in " ".join(child.cmdline()) and child.num_threads() > 1
        ]
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(sleepers, timeout=30)
    assert sleepers and not alive
