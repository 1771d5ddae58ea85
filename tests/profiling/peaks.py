"""Measured memory of training and inference on the CPU, compared with `src/model/cost/memory_estimate.py`.

The resident set (RSS) includes interpreter, libraries and the allocator's reserve. Its peak never decreases, so it is
meaningful only in a separate process. State spaces are computed as on other devices; the CPU kernel needs less memory.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.config.schema import ModelSpec, OptimizerConfig, RuntimeConfig
from src.model.blocks.base import disable_cpu_kernels
from src.model.build import build_model
from src.profiling.memory_measurement import peak_growth
from src.runtime.device import open_device
from src.runtime.host import peak_rss
from src.runtime.subprocess_pool import run_in_subprocess
from src.training.trial_step import build_train_state, random_step


class Measured(NamedTuple):
    """Peak bytes."""

    tensor_bytes: int
    """Of live tensors, weights and optimizer included."""
    rss_bytes: int
    """Of the whole process since its start."""


@disable_cpu_kernels()
def training_peak(
    spec: ModelSpec,
    *,
    seq_len: int,
    micro_batch_size: int,
    accumulate: bool,
    activation_checkpointing: bool = False,
    precision: str = "fp32",
    document_masking: bool = False,
    dropout: float = 0.0,
    memory: str = "full",
) -> Measured:
    """Train three steps on random tokens in this process and measure the last, when the optimizer has its state."""
    device = open_device(RuntimeConfig(name="cpu", device="cpu", precision=precision, threads=torch.get_num_threads()))
    optimizer = OptimizerConfig(name="adamw", learning_rate=1e-4)
    state = build_train_state(spec, optimizer, device, activation_checkpointing, memory=memory)
    step = partial(
        random_step,
        state,
        device,
        seq_len=seq_len,
        micro_batch_size=micro_batch_size,
        accumulate=accumulate,
        document_masking=document_masking,
        dropout=dropout,
    )
    for _ in range(2):
        step()
    rss = peak_rss()
    moments = [value for of_one in state.optimizer.state.values() for value in of_one.values()]
    return Measured(_n_bytes([*state.model.state_dict().values(), *moments]) + peak_growth(step), rss)


@disable_cpu_kernels()
@torch.no_grad()
def inference_peaks(spec: ModelSpec, *, context_len: int, batch_size: int) -> tuple[Measured, Measured]:
    """Read a random prompt of `context_len` tokens in this process, then decode one token; return both peaks."""
    open_device(RuntimeConfig(name="cpu", device="cpu", threads=torch.get_num_threads()))
    model = build_model(spec, seed=0).eval()
    caches = []

    def read(n_tokens: int) -> Measured:
        tokens = torch.randint(spec.vocab_size, (batch_size, n_tokens))
        # No reference to the state may be kept, since each pass replaces it.
        state = (value for cache in caches for block in cache.blocks if block for value in vars(block).values())
        alive = _n_bytes(model.state_dict().values()) + _n_bytes(state)

        def forward() -> None:
            if not caches:
                caches.append(model.make_cache(batch_size, context_len))
            model.head(model(tokens, caches[0]).hidden[:, -1])

        return Measured(alive + peak_growth(forward), peak_rss())

    return read(context_len), read(1)


def measured_training_memory(spec: ModelSpec, **settings: Any) -> Measured:
    """Run `training_peak` with the same arguments in a separate process."""
    return run_in_subprocess(partial(training_peak, spec, **settings))


def measured_inference_memory(spec: ModelSpec, *, context_len: int, batch_size: int) -> tuple[Measured, Measured]:
    """Run `inference_peaks` in a separate process."""
    return run_in_subprocess(partial(inference_peaks, spec, context_len=context_len, batch_size=batch_size))


def _n_bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))
