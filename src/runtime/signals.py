"""A polite request to stop: noted when it comes, honoured between two optimizer steps."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):
    """A signal asked the run to stop, and what it had done is saved. Commands exit with 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def stop_signal(exit_code: int) -> int | None:
    """Return the stop signal that a process ended by, noted (128 + n) or not yet listened to (-n); None for others."""
    number = exit_code - 128 if exit_code > 128 else -exit_code
    return number if number in STOP_SIGNALS else None


class StopRequest:
    """Whether a stop was asked for, and by which signal."""

    def __init__(self) -> None:
        self.number: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == signal.SIGINT:
            os._exit(128 + number)  # asked twice: what is saved is saved
        self.number = number


@contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """Note stop signals while the block runs, instead of dying of them."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
