"""Which language-model architecture should I train on my own machine? See README.md."""

import os
import signal
import sys
from types import FrameType

__version__ = "0.1.0"


def exit_immediately(number: int, frame: FrameType | None) -> None:
    """End the process as Ctrl-C should, without a traceback, while there is nothing to save or clean up."""
    os._exit(128 + number)


if sys.argv[:1] == ["-m"]:  # so it is while `python -m src.train` looks for its module
    signal.signal(signal.SIGINT, exit_immediately)  # the imports of a command take seconds
    os.environ["MPLBACKEND"] = "agg"  # commands draw into files; any other backend, or a wrong one, can only fail
