"""Measure what training and inference take in memory on the CPU, beside what `src/model/memory.py` expects.

Live tensor bytes come from the allocator by way of torch's profiler, so that what a kernel takes for itself counts too.
The resident set (RSS) is the whole process: interpreter, libraries and the allocator's reserve as well. Its peak only
ever grows, so each measurement has a process of its own. State spaces are computed as other devices do: a CPU's own
form takes less.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.config import ModelSpec, OptimizerConfig, RuntimeConfig
from src.model.blocks.mamba import blind
from src.model.build import build_model
from src.model.memory import Memory
from src.runtime.apart import apart
from src.runtime.device import Device, open_device
from src.runtime.machine import peak_rss
from src.training.loop import TrainState
from src.training.optimizer import build_optimizer
from src.training.step import train_step


class Measured(NamedTuple):
    """Bytes at the peak."""

    tensor_bytes: int
    """Of live tensors, weights and optimizer included."""
    rss_bytes: int
    """Of the whole process, since it began."""


@dataclass(frozen=True)
class Row:
    """What was expected, and what was seen."""

    name: str
    estimate: Memory
    measured: Measured

    @property
    def ratio(self) -> float:
        """Estimated over measured."""
        return self.estimate.total / self.measured.tensor_bytes


def peak_growth(action: Callable[[], Any]) -> int:
    """Run `action` and return how many bytes of tensors were alive at its worst moment, beyond those before it.

    Tensors that `action` frees and did not make are counted as freed only if an earlier call of this function saw them
    being made: the allocator does not remember sizes by itself.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would announce itself on standard error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    events = [event for event in trace if event.get("name") == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: (event["ts"], event["args"]["Ev Idx"])):
        alive += event["args"]["Bytes"]
        peak = max(peak, alive)
    return peak


@blind()
def training_peak(
    spec: ModelSpec,
    *,
    seq_len: int,
    micro_batch_size: int,
    accumulate: bool,
    activation_checkpointing: bool = False,
    precision: str = "fp32",
    document_masking: bool = False,
) -> Measured:
    """Train three steps on random tokens in this process and measure the last, when the optimizer has its state."""
    device = open_device(RuntimeConfig(name="cpu", device="cpu", precision=precision, threads=torch.get_num_threads()))
    state = begin_training(spec, OptimizerConfig(name="adamw", learning_rate=1e-4), device, activation_checkpointing)
    step = partial(
        random_step,
        state,
        device,
        seq_len=seq_len,
        micro_batch_size=micro_batch_size,
        accumulate=accumulate,
        document_masking=document_masking,
    )
    for _ in range(2):
        step()
    rss = peak_rss()
    moments = [value for of_one in state.optimizer.state.values() for value in of_one.values()]
    return Measured(_n_bytes([*state.model.state_dict().values(), *moments]) + peak_growth(step), rss)


def begin_training(
    spec: ModelSpec, optimizer: OptimizerConfig, device: Device, activation_checkpointing: bool
) -> TrainState:
    """Build what a run trains."""
    model = build_model(spec, seed=0).to(device.kind).train()
    model.activation_checkpointing = activation_checkpointing
    return TrainState.begin("measured", model, build_optimizer(model, optimizer), device)


def random_step(
    state: TrainState,
    device: Device,
    *,
    seq_len: int,
    micro_batch_size: int,
    accumulate: bool,
    document_masking: bool,
) -> None:
    """Train one step on random tokens: one micro batch, or two whose gradients are summed."""
    rows = micro_batch_size * (1 + accumulate)
    train_step(
        state.model,
        state.forward,
        state.optimizer,
        state.scaler,
        torch.randint(state.model.spec.vocab_size, (rows, seq_len + 1), device=device.kind),
        micro_batch_size=micro_batch_size,
        grad_clip=1.0,
        device=device,
        eot_id=0 if document_masking else None,
    )


@blind()
@torch.no_grad()
def inference_peaks(spec: ModelSpec, *, context_len: int, batch_size: int) -> tuple[Measured, Measured]:
    """Read a random prompt of `context_len` tokens in this process, then decode one token; return both peaks."""
    open_device(RuntimeConfig(name="cpu", device="cpu", threads=torch.get_num_threads()))
    model = build_model(spec, seed=0).eval()
    caches = []

    def read(n_tokens: int) -> Measured:
        tokens = torch.randint(spec.vocab_size, (batch_size, n_tokens))
        # Nothing here may hold on to the state, which each pass replaces.
        kept = (value for cache in caches for block in cache.blocks if block for value in vars(block).values())
        alive = _n_bytes(model.state_dict().values()) + _n_bytes(kept)

        def forward() -> None:
            if not caches:
                caches.append(model.make_cache(batch_size, context_len))
            model.head(model(tokens, caches[0]).hidden[:, -1])

        return Measured(alive + peak_growth(forward), peak_rss())

    return read(context_len), read(1)


def measured_training_memory(spec: ModelSpec, **settings: Any) -> Measured:
    """Do `training_peak` with the same arguments in a process of its own."""
    return apart(partial(training_peak, spec, **settings))


def measured_inference_memory(spec: ModelSpec, *, context_len: int, batch_size: int) -> tuple[Measured, Measured]:
    """Do `inference_peaks` in a process of its own."""
    return apart(partial(inference_peaks, spec, context_len=context_len, batch_size=batch_size))


def memory_table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table, in MB of 10^6 bytes."""
    lines = ["| | estimate MB | measured MB | ratio | RSS MB |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        estimate, (tensors, rss) = row.estimate.total, row.measured
        lines.append(f"| {row.name} | {estimate / 1e6:.1f} | {tensors / 1e6:.1f} | {row.ratio:.3f} | {rss / 1e6:.0f} |")
    return "\n".join(lines)


def _n_bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))
