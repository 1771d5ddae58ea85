"""Resolve `training.micro_batch_size=auto`: the largest micro batch that fits this machine.

Each candidate trains some steps. The estimate (`src/model/cost`) covers tensors only: a process takes 1.3 to 2.1 times
as much with Linux's CPU allocator, and other programs use memory too. A trial runs in a subprocess, because out of
memory on a CPU raises no error: the kernel kills the process. The micro batch changes results by rounding only, so the
run's name is hashed with `auto`. A model in shards has no trial, as a single process may not hold it.

Memory is that of the run's own device: what is free of its GPU, or its part of the machine's memory, which several
processes and jobs share.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from src.config.formatting import show_bytes
from src.config.schema import LauncherConfig, ModelSpec, TrainConfig, UserError
from src.runs.resource_check import largest_by_estimate, out_of_memory_message, with_micro_batch
from src.runtime.device import Device, is_out_of_memory, open_device
from src.runtime.host import PROCESS_BYTES, available_bytes, has_dedicated_memory
from src.runtime.log import LogFunction
from src.runtime.signals import StopRequest
from src.runtime.subprocess_pool import run_in_subprocess
from src.training.trial_step import build_train_state, random_step

MEMORY_FRACTION = 0.9
"""Fraction of the available memory for training steps; the rest is for checkpoints, metrics and W&B."""
MAX_TRIAL_STEPS = 3
MAX_TRIAL_S = 10
"""A longer trial has no further step: one shows the peak, further ones what the allocator adds."""


def own_free_bytes(device: Device, launcher: LauncherConfig) -> int:
    """Return the bytes that tensors of this process can take now; later jobs on the same device have their part."""
    is_gpu = has_dedicated_memory(device.kind)
    jobs = launcher.jobs_per_gpu if is_gpu else launcher.n_jobs
    processes = 1 if is_gpu else device.process_group.local_size
    return min(device.free_bytes() // processes, device.capacity_bytes() // (processes * jobs))


def find_micro_batch_size(
    config: TrainConfig, spec: ModelSpec, device: Device, free_bytes: int, stop: StopRequest, log_info: LogFunction
) -> int:
    """Return the largest micro batch that fits, and log why; `config.runtime` holds no `auto`.

    free_bytes: the least that a process of the run has (`own_free_bytes`).

    Raises:
        UserError: not even one sequence fits.
        Interrupted: a stop signal was received.
    """
    # Available memory excludes what this process holds; each trial holds as much before its first tensor.
    budget = int(MEMORY_FRACTION * free_bytes)
    host_budget = budget if device.kind == "cpu" else int(MEMORY_FRACTION * available_bytes())
    rows = config.training.global_batch_size // device.process_group.size
    # In half precision, and for state spaces on a CPU, the estimate is an upper bound, up to twice the memory.
    is_bound = device.precision != "fp32" or (device.kind == "cpu" and "mamba" in spec.blocks)
    estimate_budget = budget * (2 if is_bound else 1) - PROCESS_BYTES
    largest = max(1, largest_by_estimate(config, spec, estimate_budget))
    if device.is_sharded:
        log_info(f"training.micro_batch_size=auto: {largest} of {rows} sequences at a time, by the estimate alone")
        return largest
    peaks: dict[int, int | None] = {}

    def fits(size: int) -> bool:
        action = partial(measure_trial, with_micro_batch(config, size), spec, accumulate=size < rows)
        try:
            peaks[size] = run_in_subprocess(action, max_bytes=host_budget, stop=stop)
        except BrokenProcessPool:
            peaks[size] = None
        return (peaks[size] or budget + 1) <= budget

    found = largest_fitting(fits, [size for size in range(1, largest + 1) if rows % size == 0])
    too_many = ", ".join(str(size) for size in peaks if size > found)
    if not found:
        raise UserError(out_of_memory_message(with_micro_batch(config, 1), spec, budget, f"tried {too_many} at a time"))
    reason = f"tried {too_many}: out of memory" if too_many else "more do not fit by the estimate"
    log_info(
        f"training.micro_batch_size=auto: {found} of {rows} sequences at a time take {show_bytes(peaks[found])} of "
        f"{show_bytes(budget)} to use{f' ({reason})' if found < rows else ''}"
    )
    return found


def largest_fitting(fits: Callable[[int], bool], sizes: Sequence[int]) -> int:
    """Return the largest of ascending sizes that fits, or 0: try the last, then bisect."""
    if fits(sizes[-1]):
        return sizes[-1]
    count = bisect_left(sizes[:-1], True, key=lambda size: not fits(size))
    return sizes[count - 1] if count else 0


def measure_trial(config: TrainConfig, spec: ModelSpec, *, accumulate: bool) -> int | None:
    """Train some steps on random tokens in this process; return its peak memory in bytes, or None if it ran out.

    Without torch.compile, which would take a minute per trial.
    """
    training, device = config.training, open_device(config.runtime)
    try:
        recompute = config.runtime.activation_checkpointing
        state = build_train_state(spec, config.optimizer, device, recompute, memory=training.memory)
        step = partial(
            random_step,
            state,
            device,
            seq_len=training.seq_len,
            document_masking=training.document_masking,
            dropout=training.dropout,
        )
        step(micro_batch_size=1, accumulate=False)  # allocates the optimizer's state
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
