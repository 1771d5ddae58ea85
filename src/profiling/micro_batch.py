"""What `training.micro_batch_size=auto` becomes: the most sequences at a time that fit, found by trying.

The estimate says where to begin. Each candidate then does one forward and backward pass and an update, with the
optimizer's state and standing gradients in memory, in a process of its own: where memory runs out on a CPU, the system
may kill the process that asked for it instead of refusing.
"""

import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from src.config import ModelSpec, TrainConfig, UserError
from src.model.build import build_model
from src.model.memory import divisors
from src.preflight import out_of_memory, reckon_micro_batch
from src.profiling.memory import in_own_process
from src.runtime.device import Device, is_out_of_memory
from src.runtime.distributed import ALONE
from src.runtime.machine import available_bytes
from src.training.optimizer import build_optimizer
from src.training.step import train_step
from src.units import show_bytes

KILLED = "had its process killed"


def find_micro_batch_size(config: TrainConfig, spec: ModelSpec, device: Device, say: Callable[[str], None]) -> int:
    """Return the largest divisor of this process's share of the global batch that fits, and say what was tried.

    Raises:
        UserError: not even one sequence fits; with settings that would.
    """
    training, world = config.training, device.world
    share = training.global_batch_size // world.size
    reckoned = reckon_micro_batch(config, spec).training.micro_batch
    limit = available_bytes() // world.local_size if device.kind == "cpu" else device.capacity_bytes()
    problems: list[str] = []
    for size in reversed([n for n in divisors(share) if n <= reckoned]):
        problem = in_own_process(partial(problem_with, size, config, spec, device, limit), KILLED)
        if problem is None:
            why = problems or (["as the estimate says"] if size < share else [])
            say("; ".join([f"training.micro_batch_size=auto: {size} of {share} sequences at a time", *why]))
            return size
        problems.append(f"{size} {problem}")
    least = replace(config, training=replace(training, micro_batch_size=1))
    raise UserError(out_of_memory(least, spec, limit, problems[-1]))


def problem_with(size: int, config: TrainConfig, spec: ModelSpec, device: Device, limit: int) -> str | None:
    """Train one step of `size` sequences in this process, and say why that does not fit; None: it does."""
    training, runtime, device = config.training, config.runtime, replace(device, world=ALONE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which hears it after the trial
    torch.set_num_threads(device.threads)
    if sys.platform == "linux" and device.kind == "cpu":
        # What is beyond is refused, instead of driving other programs into swap.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        model = build_model(spec, seed=0).train()
        model.activation_checkpointing = runtime.activation_checkpointing
        model.to(device.kind)
        optimizer = build_optimizer(model, config.optimizer)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # makes its state
        if (
            size == training.global_batch_size
        ):  # else gradients of earlier micro batches stand while others are computed
            optimizer.zero_grad(set_to_none=True)
        tokens = torch.randint(spec.vocab_size, (size, training.seq_len + 1), device=device.kind)
        train_step(
            model,
            model,
            optimizer,
            device.build_scaler(),
            tokens,
            micro_batch_size=size,
            grad_clip=1.0,
            device=device,
            eot_id=0 if training.document_masking else None,
        )
        device.synchronize()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return f"ran out of the {show_bytes(limit)} that there are"
    peak = device.memory_bytes()
    return f"took {show_bytes(peak)}, more than the {show_bytes(limit)} that there are" if peak > limit else None
