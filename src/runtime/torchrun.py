"""Start the processes of one run by torchrun: `python -m src.runtime.torchrun --nproc-per-node 2 -m src.train ...`.

torchrun itself exits with 1 whatever its processes exit with, and prints a report below their error. This module exits
as they do, so that a sweep can tell a stopped job from a failed one, and prints at most one line.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from src.runtime.errors import first_line
from src.runtime.signals import STOP_SIGNALS

SHUTDOWN_S = 110
"""Seconds that processes have to save and end after a signal, before they are killed. Below the 120 that a job of Slurm
has between its signal and its end (conf/launcher/slurm.yaml)."""
ENDED_BY_TORCHRUN = (-signal.SIGTERM, 128 + signal.SIGTERM)
"""Exit codes of a process that SIGTERM has killed, and of one that has saved and ended at it."""


def torchrun_command(*options: str) -> list[str]:
    """Return a command that starts `python -m MODULE`, whose name and arguments are to follow, in several processes."""
    forwarded = ",".join(number.name for number in STOP_SIGNALS)
    ours = ["--signals-to-handle", forwarded, "--shutdown-timeout", str(SHUTDOWN_S)]
    no_folder = ["--log-dir", os.devnull]  # otherwise torchrun leaves an empty folder in the temporary one
    return [sys.executable, "-m", "src.runtime.torchrun", *options, *ours, *no_folder, "-m"]


def exit_status(exit_codes: Sequence[int]) -> int:
    """Return the exit status of processes that have failed: that of the first killed one, or else of the lowest rank.

    exit_codes: in the order of the ranks; negative for a process that a signal has killed. Those that SIGTERM has ended
    count only where all were: after a failure torchrun ends the others by it.
    """
    causes = [code for code in exit_codes if code not in ENDED_BY_TORCHRUN] or exit_codes
    return next((128 - code for code in causes if code < 0), causes[0])


def main(arguments: list[str]) -> int:
    """Run torchrun, and return the exit status of its processes; 128 + n if a signal n has killed or stopped one."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.CRITICAL)  # the processes have their own log
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        return exit_status([error.failures[rank].exitcode for rank in sorted(error.failures)])
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except Exception as error:  # of the rendezvous, which raises many types
        print(f"error: torchrun: the processes cannot be started ({first_line(error)})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
