"""Count this process's operations on files, and kill it just before one of them."""

import os
import signal
import sys
from typing import Any

FILE_EVENTS = tuple("open os.rename os.remove os.mkdir os.rmdir os.truncate shutil.rmtree shutil.copyfile".split())

IMPORTS = (".py',)", ".pyc',)", ".so',)")
"""Ends of what an import opens, as an event has it: no kill there can hurt."""


def kill_before(operation: int | None) -> list[int]:
    """Have this process die before it does that operation on files; return their count, which goes on."""
    done = [0]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and not str(arguments[:1]).endswith(IMPORTS):
            if done[0] == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            done[0] += 1

    sys.addaudithook(watch)
    return done
