"""Stop signals: recorded when they arrive, handled between two optimizer steps."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):
    """A signal has stopped the run, and its progress is saved. Commands exit with 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


def stop_signal(exit_code: int) -> int | None:
    """Return the stop signal that ended a process, handled (128 + n) or unhandled (-n); None for other exit codes."""
    number = exit_code - 128 if exit_code > 128 else -exit_code
    return number if number in STOP_SIGNALS else None


class StopRequest:
    """The stop signal that was received, or None."""

    def __init__(self) -> None:
        self.number: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == signal.SIGINT:
            os._exit(128 + number)  # a second Ctrl-C stops at once
        self.number = number

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if a stop signal was received."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """Record stop signals during the block instead of ending the process."""
    request = StopRequest()
    before = {number: signal.signal(number, request.handle) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
