"""Call a function in a fork, which ends with the status that the function returns."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def start_fork(action: Callable[[], int | None], output: int | Path | None = None) -> int:
    """Start a fork that calls `action`, and return its process id.

    The fork exits with the value of `action` (None: 0), or with 70 after an exception, whose traceback it prints.
    output: file descriptor or file for what the fork prints.
    """
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        if output is not None:
            file = output if isinstance(output, int) else os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(file, number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        status = action() or 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait_for_fork(child: int) -> int:
    """Wait for a fork to end and return its exit status; negative: the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
