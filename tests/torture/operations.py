"""Count this process's file operations, and kill it just before one of them."""

import os
import signal
import sys
from typing import Any

FILE_EVENTS = tuple("open os.rename os.remove os.mkdir os.rmdir os.truncate shutil.rmtree shutil.copyfile".split())

IMPORTS = (".py',)", ".pyc',)", ".so',)")
"""Endings of the files that imports open, as events name them: a kill there cannot do damage."""
IMPORTS = (".py',)", ".pyc',)", ".so',)")


def kill_before(operation: int | None) -> list[int]:
    """Kill this process before the given file operation; return a list with the current count."""
    count = [0]

    def audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and not str(arguments[:1]).endswith(IMPORTS):
            if count[0] == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1

    sys.addaudithook(audit_hook)
    return count
