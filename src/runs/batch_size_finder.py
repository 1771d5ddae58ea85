"""Find what `training.micro_batch_size=auto` becomes: the most sequences at a time that this machine can train with.

Each candidate is tried for real. The estimate (`src/model/cost`) is of tensors; a process takes 1.3 to 2.1 times
as much on Linux's CPU allocator, and what there is depends on the programs beside it. A trial has a process of its own,
because a CPU raises nothing where memory runs out: the kernel ends the process. Another micro batch changes what is
learned by rounding alone, so the name of the run keeps `auto`.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from src.config.formatting import show_bytes
from src.config.schema import ModelSpec, TrainConfig, UserError
from src.runs.resource_check import largest_by_estimate, out_of_memory_message, with_micro_batch
from src.runtime.device import Device, is_out_of_memory, open_device
from src.runtime.host import PROCESS_BYTES, available_bytes
from src.runtime.log import LogFunction
from src.runtime.signals import StopRequest
from src.runtime.subprocess_pool import run_in_subprocess
from src.training.trial_step import begin_training, random_step

MEMORY_FRACTION = 0.9
"""Of the memory there is, for training steps; the rest is for what a trial does not do: checkpoints, metrics, W&B."""
MAX_TRIAL_STEPS = 3
MAX_TRIAL_S = 10
"""A trial that has taken so many seconds has no further step: one shows the peak, more show what an allocator adds."""


def find_micro_batch_size(
    config: TrainConfig, spec: ModelSpec, device: Device, stop: StopRequest, log_info: LogFunction
) -> int:
    """Return the largest micro batch that fits, and say why; the runtime of `config` is decided already.

    Raises:
        UserError: not even one sequence at a time fits.
        Interrupted: a stop was asked for.
    """
    # What this process holds already is not in there, and each trial holds as much again before its first tensor.
    of_host = int(MEMORY_FRACTION * available_bytes()) // device.process_group.local_size
    to_use = of_host if device.kind == "cpu" else int(MEMORY_FRACTION * device.capacity_bytes())
    rows = config.training.global_batch_size // device.process_group.size
    # In half precision, and of state spaces on a CPU, the estimate is an upper bound, up to twice what it takes.
    is_bound = device.precision != "fp32" or (device.kind == "cpu" and "mamba" in spec.blocks)
    hoped = to_use * (2 if is_bound else 1) - PROCESS_BYTES
    largest = max(1, largest_by_estimate(config, spec, hoped))
    peaks: dict[int, int | None] = {}

    def fits(size: int) -> bool:
        action = partial(measure_trial, with_micro_batch(config, size), spec, accumulate=size < rows)
        try:
            peaks[size] = run_in_subprocess(action, max_bytes=of_host, stop=stop)
        except BrokenProcessPool:
            peaks[size] = None
        return (peaks[size] or to_use + 1) <= to_use

    found = largest_fitting(fits, [size for size in range(1, largest + 1) if rows % size == 0])
    too_many = ", ".join(str(size) for size in peaks if size > found)
    if not found:
        raise UserError(out_of_memory_message(with_micro_batch(config, 1), spec, to_use, f"tried {too_many} at a time"))
    why = f"tried {too_many}: out of memory" if too_many else "more would not fit by the estimate"
    log_info(
        f"training.micro_batch_size=auto: {found} of {rows} sequences at a time take {show_bytes(peaks[found])} of "
        f"{show_bytes(to_use)} to use{f' ({why})' if found < rows else ''}"
    )
    return found


def largest_fitting(fits: Callable[[int], bool], sizes: Sequence[int]) -> int:
    """Return the largest of ascending sizes that fits, 0 if none does: the last first, then by halving what is left."""
    if fits(sizes[-1]):
        return sizes[-1]
    count = bisect_left(sizes[:-1], True, key=lambda size: not fits(size))
    return sizes[count - 1] if count else 0


def measure_trial(config: TrainConfig, spec: ModelSpec, *, accumulate: bool) -> int | None:
    """Train some steps on random tokens in this process; return its peak of memory in bytes, or None if it ran out.

    What torch.compile would save or add is left out: it would take a minute a trial.
    """
    training, device = config.training, open_device(config.runtime)
    try:
        state = begin_training(spec, config.optimizer, device, config.runtime.activation_checkpointing)
        step = partial(
            random_step,
            state,
            device,
            seq_len=training.seq_len,
            document_masking=training.document_masking,
            dropout=training.dropout,
        )
        step(micro_batch_size=1, accumulate=False)  # makes the optimizer's state, at little cost
        start = time.monotonic()
        for _ in range(MAX_TRIAL_STEPS):
            step(micro_batch_size=training.micro_batch, accumulate=accumulate)
            if time.monotonic() - start > MAX_TRIAL_S:
                break
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return device.memory_bytes()
