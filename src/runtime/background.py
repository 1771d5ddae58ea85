"""Work in a thread: one call at a time, or an action that repeats while a block runs."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

MAX_SHARE = 0.01
"""The most that the calls of an action may take of a core, which they take from training."""


class BackgroundTask:
    """At most one call at a time, in the thread of a pool."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._call: Future[None] | None = None

    def start(self, action: Callable[[], None]) -> None:
        """Wait for the earlier call, then start `action`. Raises: what the earlier call raised."""
        self.wait()
        self._call = self._pool.submit(action)

    def wait(self) -> None:
        """Wait for the call that was started, if any. Raises: what it raised, once."""
        call, self._call = self._call, None
        if call is not None:
            call.result()

    def raise_if_failed(self) -> None:
        """Raise what the call raised, if it has ended; do not wait for it."""
        if self._call is not None and self._call.done():
            self.wait()


@contextmanager
def open_background_task() -> Iterator[BackgroundTask]:
    """Yield a task whose last call has ended when the block has, also by an error, which is then the one raised."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        task = BackgroundTask(pool)
        yield task
        task.wait()


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
