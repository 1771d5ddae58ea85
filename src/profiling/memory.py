"""Measure what tensors take in memory on the CPU, and the training step that such measurements are of.

Live bytes come from the allocator by way of torch's profiler, so that what a kernel takes for itself counts too.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from src.config import ModelSpec, OptimizerConfig
from src.model.build import build_model
from src.runtime.device import Device
from src.training.loop import TrainState
from src.training.optimizer import build_optimizer
from src.training.step import train_step


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
    dropout: float = 0.0,
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
        dropout=dropout,
    )
