"""Repeat an action in a thread while a block runs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_SHARE = 0.01
"""The most that the calls of an action may take of a core, which they take from training."""


@contextmanager
def repeat_in_background(action: Callable[[], object], interval_s: float) -> Iterator[None]:
    """Call `action` every `interval_s` seconds during the block; at its end, wait for a call that is under way.

    Calls that take more processor time than MAX_SHARE allows are further apart.
    """
    ended = threading.Event()

    def run() -> None:
        pause_s = interval_s
        while not ended.wait(pause_s):
            started = time.thread_time()
            action()
            pause_s = pause_seconds(interval_s, time.thread_time() - started)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def pause_seconds(interval_s: float, processor_s: float) -> float:
    """Return the seconds to wait after a call that took `processor_s` seconds of processor time."""
    return max(interval_s, processor_s / MAX_SHARE)
