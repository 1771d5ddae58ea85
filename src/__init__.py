"""Train language-model architectures on the same task and compare them. See README.md."""

import os
import signal
import sys
from types import FrameType

__version__ = "0.1.0"


def exit_immediately(number: int, frame: FrameType | None) -> None:
    """Exit on Ctrl-C without a traceback while there is nothing to save or clean up."""
    os._exit(128 + number)


if sys.argv[:1] == ["-m"]:  # true while `python -m src.train` locates its module
    signal.signal(signal.SIGINT, exit_immediately)  # the imports of a command take seconds
    os.environ["MPLBACKEND"] = "agg"  # figures go to files, and other backends may fail
