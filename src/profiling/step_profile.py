"""Profile a training step and a decoded token: time by part of the model and by operator, and device synchronizations.

Parts are measured separately, forward and backward, on random input of the step's size; their sum is not exactly the
time of the step. Operators are those of one whole step, or of one token after a context. Their number and the
synchronizations decide a GPU's speed at small sizes; they are counted on the CPU by the dispatcher, with the kernels of
other devices.
"""

import os
import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.config.schema import BenchmarkConfig, ModelSpec
from src.model.blocks.base import disable_cpu_kernels
from src.model.language_model import LanguageModel, ModelOutput, token_loss
from src.profiling.actions import MAX_CALLS, prepare_decoding
from src.profiling.benchmark import time_interleaved
from src.profiling.operator_trace import OperatorTrace
from src.runtime.device import Device, open_device
from src.training.train_step import TrainState
from src.training.trial_step import build_train_state, random_step

MAX_OPERATORS = 15


def profile_step(config: BenchmarkConfig, spec: ModelSpec) -> dict[str, Any]:
    """Profile a training step of one micro batch, and one token after a context of the training length."""
    device = open_device(config.runtime)
    state = build_train_state(spec, config.optimizer, device, memory=config.training.memory)
    model = state.model
    rows, length = config.training.micro_batch, config.training.seq_len
    step = partial(
        random_step,
        state,
        device,
        seq_len=length,
        micro_batch_size=rows,
        accumulate=False,
        document_masking=config.training.document_masking,
    )
    step()
    parts = {**_build_parts(model, rows, length, device), "clipping and optimizer": partial(_run_update, state)}
    seconds = {
        name: statistics.median(times)
        for name, times in time_interleaved({"whole step": step, **parts}, device, float("inf")).items()
    }
    counts = Counter(spec.blocks)
    return {
        "tokens": rows * length,
        "step_s": seconds.pop("whole step"),
        "parts": {
            name: {"count": counts.get(name, 1), "seconds": time, "total_s": time * counts.get(name, 1)}
            for name, time in seconds.items()
        },
        "operators": _profile_operators(step),
        **_count_device_calls(step),
        "decoding": _profile_decoding(model, length, device),
    }


def _profile_decoding(model: LanguageModel, length: int, device: Device) -> dict[str, Any]:
    """Profile one token after `length` others, or as many as learned positions allow."""
    if learned := model.spec.learned_positions:
        length = min(length, learned - MAX_CALLS)
    tokens = torch.randint(model.spec.vocab_size, (1, length), device=device.kind)
    decode = prepare_decoding(model.eval(), tokens, n_tokens=1).run
    (times,) = time_interleaved({"token": decode}, device, float("inf")).values()
    return {"token_s": statistics.median(times), "operators": _profile_operators(decode), **_count_device_calls(decode)}


def _build_parts(model: LanguageModel, rows: int, length: int, device: Device) -> dict[str, Callable[[], object]]:
    """Return the measured functions: one block of each kind with its norm, and the parts that all models share."""
    width = model.spec.d_model
    hidden = torch.randn(rows, length, width, device=device.kind)
    targets = torch.randint(model.spec.vocab_size, (rows, length), device=device.kind)
    first = {kind: i for i, kind in reversed(list(enumerate(model.spec.blocks)))}
    return {
        **{
            kind: partial(_run_block, model.norms[i], model.blocks[i], hidden, device)
            for kind, i in sorted(first.items())
        },
        "head and loss": partial(_run_head, model, hidden, targets, device),
    }


def _run_block(norm: nn.Module, block: nn.Module, hidden: Tensor, device: Device) -> None:
    x = hidden.detach().requires_grad_()
    with device.autocast():
        y = block(norm(x)).y
    y.backward(hidden.to(y.dtype))


def _run_head(model: LanguageModel, hidden: Tensor, targets: Tensor, device: Device) -> None:
    x = hidden.detach().requires_grad_()
    with device.autocast():
        loss = token_loss(model, ModelOutput(model.final_norm(x), None, None), targets)
    loss.backward()


def _run_update(state: TrainState) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()


def _profile_operators(step: Callable[[], object]) -> list[dict[str, Any]]:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler's messages on standard error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        {"name": event.key, "calls": event.count, "share": event.self_cpu_time_total / total}
        for event in events[:MAX_OPERATORS]
    ]


def _count_device_calls(step: Callable[[], object]) -> dict[str, Any]:
    with disable_cpu_kernels(), OperatorTrace() as trace:
        step()
    return {"operator_calls": trace.ops.total(), "operator_kinds": len(trace.ops), "waits": dict(trace.waits)}
