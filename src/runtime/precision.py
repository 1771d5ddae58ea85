"""Which precision a CPU has instructions for, by the speed of small matrix products."""

from functools import partial

import torch

from src.runtime.device import DTYPES, Device
from src.runtime.timing import median_times

SLOW_FACTOR = 3
"""A precision is called slow where products take so many times as long as in fp32: with instructions it is half the
time, without them 50 times."""


def slow_precision_warning(device: Device) -> str | None:
    """Tell in one line where a CPU has no instructions for its precision, by small products of 20 ms in each."""
    if device.kind != "cpu" or device.precision == "fp32":
        return None
    plain, chosen = (matmul_speed(device, precision, 128, 0.02) for precision in ("fp32", device.precision))
    if plain < SLOW_FACTOR * chosen:
        return None
    return (
        f"runtime.precision={device.precision}: products take {plain / chosen:.0f} times as long as in fp32 on "
        "this CPU, which has no instructions for them; runtime.precision=fp32 is faster here"
    )


def matmul_speed(device: Device, precision: str, size: int, seconds: float) -> float:
    matrix = torch.ones(size, size, device=device.kind, dtype=DTYPES[precision])
    return 2 * size**3 / median_times([partial(torch.mm, matrix, matrix)], device, seconds)[0]
