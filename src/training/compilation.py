"""The blocks of a model by torch.compile, where that works and pays.

Each residual step x + block(norm(x)) is compiled as one graph without a break, not the model as a whole: blocks of one
kind share their code, so the compiler's time is that of the kinds and not of the layers. How many tokens an expert gets
is a size that the graph leaves open, so other loads compile nothing anew. The same source gives the same numbers in
every sitting: what the compiler would choose by its own measurements is left at its default, and a batch of another
shape gets graphs of its own, where the compiler would make one for all shapes once it has met two.
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

Forward = Callable[..., ModelOutput]


class Batch(NamedTuple):
    """What graphs are made for."""

    size: int
    length: int
    masked: bool = False
    """Whether documents are told apart."""
    dropout: float = 0.0


class CannotCompile(Exception):
    """The compiler does not do it here, in its own words."""


def compile_blocks(model: LanguageModel) -> Forward:
    """Return the model's forward pass through compiled blocks; the compiler is at work when it is first called.

    There are at most eight graphs in all, kinds times shapes (torch's `recompile_limit`); a ninth is an error.
    """
    torch._dynamo.config.capture_scalar_outputs = True  # else every read of the experts' loads is a break
    compiled = torch.compile(  # pyright: ignore[reportCallIssue]: its overloads forget isolate_recompiles
        model.add_block, fullgraph=True, dynamic=False, isolate_recompiles=True, options={"deterministic": True}
    )

    def add_block(norm: nn.Module, block: nn.Module, x: Tensor, *rest: Any) -> BlockOutput:
        # On other devices it is not measured what computing again costs.
        budget = block.memory_budget if isinstance(block, Block) and x.device.type == "cpu" else 1.0
        with torch._functorch.config.patch(activation_memory_budget=budget):
            return compiled(norm, block, x, *rest)

    return partial(model, add_block=add_block)


def compile_now(model: LanguageModel, batch: Batch, device: Device) -> Forward:
    """Compile the blocks for such batches. Raises CannotCompile."""
    forward = compile_blocks(model)
    try:
        _pass(model, forward, batch, device)
    except Exception as error:  # whatever a compiler comes up with
        raise CannotCompile(first_line(error)) from error
    return forward


def compile_if_it_pays(model: LanguageModel, batch: Batch, device: Device, say: LogFunction) -> Forward | None:
    """Compile the blocks for such batches, and say how fast they are; None where they fail or are not faster.

    Weights stay as they are, and no gradient is left. Of several processes all do the same: what one cannot, none does.
    """
    began = time.perf_counter()
    forward, pays = None, False
    try:
        forward = compile_now(model, batch, device)
        took = time.perf_counter() - began
        passes = [partial(_pass, model, each, batch, device) for each in (model, forward)]
        plain, compiled = median_times(passes, device, seconds=4)
        pays, said = compiled < plain, f"{plain / compiled:.2f} times as fast ({took:.0f} s of compiling)"
    except CannotCompile as error:
        said = f"it fails here ({error})"
    refused = device.process_group.all_reduce_max(None if pays else 1)
    if refused and pays:
        said += ", but not in every process"
    say(f"torch.compile: {said}{'; going on without' if refused else ''}")
    return None if refused else forward


def _pass(model: LanguageModel, forward: Forward, batch: Batch, device: Device) -> None:
    """Go forward and backward once, on tokens that are no text, and drop the gradients."""
    model.train()
    model.dropout = Dropout(batch.dropout, (), range(batch.size), device.kind) if batch.dropout else None
    shape = (batch.size, batch.length)
    tokens = torch.arange(batch.size * batch.length, device=device.kind).view(shape) % model.spec.vocab_size
    try:
        with device.autocast():
            output = forward(tokens, documents=torch.zeros_like(tokens) if batch.masked else None)
        loss = output.hidden.float().sum()
        (loss if output.aux_loss is None else loss + output.aux_loss).backward()
    finally:
        model.dropout = None
        model.zero_grad(set_to_none=True)
