"""Find by small matrix products whether a CPU has instructions for a precision."""

from functools import partial

import torch

from src.runtime.device import DTYPES, Device
from src.runtime.timing import median_times

SLOW_FACTOR = 3
"""A precision is slow if products take this many times as long as in fp32. Measured: 0.5 with instructions, 50
without."""


def slow_precision_warning(device: Device) -> str | None:
    """Return a warning if the CPU has no instructions for the precision; measures for 20 ms per precision."""
    if device.kind != "cpu" or device.precision == "fp32":
        return None
    plain, chosen = (matmul_speed(device, precision, 128, 0.02) for precision in ("fp32", device.precision))
    if plain < SLOW_FACTOR * chosen:
        return None
    return (
        f"runtime.precision={device.precision}: products take {plain / chosen:.0f} times as long as in fp32 on "
        "this CPU, which has no instructions for it; runtime.precision=fp32 is faster"
    )


def matmul_speed(device: Device, precision: str, size: int, seconds: float) -> float:
    """Return the FLOP/s of products of square matrices, measured for `seconds`."""
    matrix = torch.ones(size, size, device=device.kind, dtype=DTYPES[precision])
    return 2 * size**3 / median_times([partial(torch.mm, matrix, matrix)], device, seconds)[0]
