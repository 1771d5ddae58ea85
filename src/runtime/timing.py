"""Compare execution times; actions alternate, so that other load affects all of them equally."""

import time
from collections.abc import Callable, Sequence
from statistics import median

from src.runtime.device import Device


def median_times(actions: Sequence[Callable[[], object]], device: Device, seconds: float) -> list[float]:
    """Return the median seconds of each action over alternating calls for `seconds`, at least three each."""
    for action in actions:  # compiles, allocates, fills caches
        action()
    taken: list[list[float]] = [[] for _ in actions]
    device.synchronize()
    end = time.perf_counter() + seconds
    while len(taken[0]) < 3 or (time.perf_counter() < end and len(taken[0]) < 1000):
        for action, times in zip(actions, taken, strict=True):
            start = time.perf_counter()
            action()
            device.synchronize()
            times.append(time.perf_counter() - start)
    return [median(times) for times in taken]
