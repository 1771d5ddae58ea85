"""Repeat an action in a thread while a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeat_in_background(action: Callable[[], object], interval_s: float) -> Iterator[None]:
    """Call `action` every `interval_s` seconds during the block; at its end, wait for a call that is under way."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(interval_s):
            action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
