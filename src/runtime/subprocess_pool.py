"""Run functions in subprocesses, which may run out of memory without ending this process."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from typing import TypeVar

from src.runtime.host import peak_rss
from src.runtime.signals import StopRequest

POLL_S = 0.02
T = TypeVar("T")


def run_in_subprocess(action: Callable[[], T], *, max_bytes: int | None = None, stop: StopRequest | None = None) -> T:
    """Call `action` in a new process and return its result; the process ends if it exceeds `max_bytes`.

    The result has to be small: the pool waits without end for the rest of one that a process sent in part and ended.

    Raises:
        BrokenProcessPool: the process exceeded `max_bytes` or was killed.
        Interrupted: a stop signal was received.
        BaseException: what `action` raises.
    """
    with make_process_pool(1, max_bytes) as pool:
        future = pool.submit(action)
        try:
            while stop is not None and not wait([future], POLL_S).done:
                if stop.number is not None:
                    _end_children()
            if stop is not None:
                stop.raise_if_stopped()
            return future.result()
        except KeyboardInterrupt:  # otherwise the pool waits until the action is done
            _end_children()
            raise


def _end_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def make_process_pool(workers: int, max_bytes: int | None = None) -> ProcessPoolExecutor:
    """Create a pool whose processes end with this one, even if it is killed, or when they exceed `max_bytes`.

    They are spawned, since a fork of a process with threads may hang; so __main__ has to be importable.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_initialize_worker, initargs=(os.getpid(), max_bytes))


def _initialize_worker(parent: int, max_bytes: int | None) -> None:
    """Ignore Ctrl-C, which the parent handles, and start the thread that ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent, max_bytes), daemon=True).start()


def _exit_with_parent(parent: int, max_bytes: int | None) -> None:
    """End this process if its parent is gone, or before the kernel runs out of memory."""
    while os.getppid() == parent and (max_bytes is None or peak_rss() <= max_bytes):
        time.sleep(POLL_S)
    os._exit(1)
