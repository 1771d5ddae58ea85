"""One process of `test_torchrun.py`: ends as its argument says."""

import os
import signal
import sys
import time
from types import FrameType

RANK = int(os.environ["RANK"])


def stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(each, stop)
    print(f"rank {RANK} of {os.environ['WORLD_SIZE']}", flush=True)
    if sys.argv[1] == "wait":
        time.sleep(60)
    if sys.argv[1] == "killed" and RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit({"wait": 0, "killed": 1, "invalid": 2, "done": 0}[sys.argv[1]])
