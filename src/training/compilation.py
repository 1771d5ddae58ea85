"""torch.compile for the blocks of a model, used if it works and is faster.

Each residual step x + block(norm(x)) is compiled as one graph without breaks, not the model as a whole: blocks of one
kind share their code, so compile time depends on the kinds and not on the number of layers. The number of tokens per
expert is a dynamic size, so other loads do not recompile. Results are reproducible: options that the compiler would
choose by its own measurements keep their defaults, and each batch shape gets its own static graphs instead of dynamic
ones after the second shape.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch._functorch.config
from torch import Tensor, nn

from src.model.blocks.base import Block, BlockOutput
from src.model.dropout import Dropout
from src.model.language_model import LanguageModel, ModelOutput
from src.runtime.device import Device
from src.runtime.errors import first_line
from src.runtime.log import LogFunction
from src.runtime.timing import median_times
from src.training.parallel import ResidualStep

Forward = Callable[..., ModelOutput]


class Batch(NamedTuple):
    """The properties of a batch that graphs are compiled for."""

    size: int
    length: int
    masked: bool = False
    """Whether documents are masked."""
    dropout: float = 0.0


class CompilationError(Exception):
    """torch.compile failed; the message is the compiler's."""


def compile_blocks(model: LanguageModel) -> Forward:
    """Return the model's forward pass through compiled blocks; compilation starts at the first call."""
    return partial(model, residual_step=compile_residual_step(model))


def compile_residual_step(model: LanguageModel) -> ResidualStep:
    """Return the compiled form of the model's method `residual_step`; `block` may be the forward pass of one.

    There are at most eight graphs in total, kinds times shapes (torch's `recompile_limit`); a ninth is an error.
    """
    torch._dynamo.config.capture_scalar_outputs = True  # otherwise every read of the experts' loads is a graph break
    compiled = torch.compile(  # pyright: ignore[reportCallIssue]: its overloads lack isolate_recompiles
        model.residual_step, fullgraph=True, dynamic=False, isolate_recompiles=True, options={"deterministic": True}
    )

    def residual_step(norm: nn.Module, block: Any, x: Tensor, *rest: Any) -> BlockOutput:
        # The cost of recomputing was not measured on other devices.
        module = getattr(block, "__self__", block)
        budget = module.memory_budget if isinstance(module, Block) and x.device.type == "cpu" else 1.0
        with torch._functorch.config.patch(activation_memory_budget=budget):
            return compiled(norm, block, x, *rest)

    return residual_step


def compile_and_check(model: LanguageModel, batch: Batch, device: Device) -> Forward:
    """Compile the blocks for such batches and run them once. Raises CompilationError."""
    forward = compile_blocks(model)
    try:
        run_pass(model, forward, batch, device)
    except Exception as error:  # a compiler may raise any type
        raise CompilationError(first_line(error)) from error
    return forward


def compile_if_faster(model: LanguageModel, batch: Batch, device: Device, log_info: LogFunction) -> Forward | None:
    """Compile the blocks for such batches and report their speed; return None if that fails or is not faster.

    Weights and gradients stay unchanged. All processes decide alike: if one cannot compile, none uses the compiled
    form.
    """
    start = time.perf_counter()
    forward, is_faster = None, False
    try:
        forward = compile_and_check(model, batch, device)
        compile_s = time.perf_counter() - start
        passes = [partial(run_pass, model, each, batch, device) for each in (model, forward)]
        plain, compiled = median_times(passes, device, seconds=4)
        is_faster, report = compiled < plain, f"{plain / compiled:.2f} times as fast ({compile_s:.0f} s of compiling)"
    except CompilationError as error:
        report = f"it fails here ({error})"
    is_rejected = device.process_group.all_reduce_max(None if is_faster else 1)
    if is_rejected and is_faster:
        report += ", but not in every process"
    log_info(f"torch.compile: {report}{'; going on without' if is_rejected else ''}")
    return None if is_rejected else forward


def run_pass(model: LanguageModel, forward: Forward, batch: Batch, device: Device) -> None:
    """Run one forward and backward pass on artificial tokens, and discard the gradients."""
    model.train()
    model.dropout = Dropout(batch.dropout, (), range(batch.size), device.kind) if batch.dropout else None
    tokens, documents = artificial_tokens(model, batch, device)
    try:
        with device.autocast():
            output = forward(tokens, documents=documents)
        loss = output.hidden.float().sum()
        (loss if output.aux_loss is None else loss + output.aux_loss).backward()
    finally:
        model.dropout = None
        model.zero_grad(set_to_none=True)


def artificial_tokens(model: LanguageModel, batch: Batch, device: Device) -> tuple[Tensor, Tensor | None]:
    """Return tokens (B, T) in ascending order, and the number of their document, of which each row has four."""
    positions = torch.arange(batch.length, device=device.kind)
    tokens = torch.arange(batch.size * batch.length, device=device.kind).view(batch.size, -1) % model.spec.vocab_size
    return tokens, (positions * 4 // batch.length).repeat(batch.size, 1) if batch.masked else None
