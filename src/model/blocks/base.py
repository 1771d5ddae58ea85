"""The interface of a block: a causal map of (B, T, D) to (B, T, D) with its own initialization and decoding state.

`LanguageModel` adds the residual connection and the norm before a block. The cost of a block is in `cost.py` in the
same folder, so that sizes can be matched without torch.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

INIT_STD = 0.02


class BlockOutput(NamedTuple):
    """The output of a block."""

    y: Tensor
    """(B, T, D), to be added to the residual stream."""
    aux_loss: Tensor | None = None
    """Scalar, weighted, to be added to the training loss."""
    expert_load: Tensor | None = None
    """(E,): how often each expert was chosen in this batch, no gradient."""
    router_z: Tensor | None = None
    """Scalar: mean over tokens of logsumexp(router logits)^2, unweighted, no gradient."""


class Cache(Protocol):
    """The decoding state of one block: filled by one prefill of any length, then updated one token at a time."""

    offset: int
    """Positions processed so far."""


class Block(nn.Module):
    """A causal sequence map with its own initialization and decoding state."""

    memory_budget = 1.0
    """Share of activations that a compiled graph saves on a CPU; the cheapest ones to recompute are not saved."""
    uses_flex = False
    """Whether windows and document masks are computed by FlexAttention (`attention/flex.py`)."""
    has_fla_kernel = False
    """Whether the library of `fla_kernels.py` has the recurrence of this kind."""
    uses_fla = False
    """Whether that recurrence is computed by it."""
    is_recomputed = False
    """Whether the backward pass computes the whole block again (activation checkpointing)."""

    def forward(self, x: Tensor, cache: Any = None, documents: Tensor | None = None) -> BlockOutput:
        """Map x (B, T, D); with a cache, x continues the sequence in the cache.

        documents: (B, T), document ids that never decrease along a row. The output at a position depends only on its
        own document. Not supported together with a cache, which holds one document.
        """
        raise NotImplementedError(type(self).__name__)

    def recompute(self, function: Callable[..., Tensor], x: Tensor, cache: Any, documents: Tensor | None) -> Tensor:
        """Return function(x, cache, documents); the backward pass calls it again instead of keeping what it computes.

        Not with a cache, which the function changes, nor without gradients, nor in a compiled graph, which decides
        itself what to keep.
        """
        is_plain = cache is not None or self.is_recomputed or not torch.is_grad_enabled()
        if is_plain or torch.compiler.is_compiling():
            return function(x, cache, documents)
        return call_recomputed(function, x, cache, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> Cache | None:
        """Build an empty decoding state with the device and dtype of `like`; None if the block needs none."""
        return None

    def init_weights(self, residual_scale: float) -> None:
        """Initialize every weight; `residual_scale`, 1 / sqrt(number of blocks), scales the output projection."""
        raise NotImplementedError(type(self).__name__)

    def packed_projections(self) -> dict[str, tuple[int, ...]]:
        """Return the names of weights that stack several projections along their rows, with the row count of each."""
        return {}

    def no_decay(self) -> set[str]:
        """Return the names of parameters to exclude from weight decay, besides those with one dimension."""
        return set()


def call_recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function of blocks, and again in the backward pass, instead of keeping what it computes.

    Blocks draw no random numbers, so there is no generator state to save for the second call.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def should_use_cpu_kernel(x: Tensor) -> bool:
    """Return whether x is on a CPU in eager mode and CPU-specific kernels are enabled.

    Only then is it free to read values: on other devices it synchronizes, and in a compiled graph it is a graph break.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _CPU_KERNELS_DISABLED.get()


_CPU_KERNELS_DISABLED = ContextVar("cpu_kernels_disabled", default=False)


@contextmanager
def disable_cpu_kernels() -> Iterator[None]:
    """Compute on a CPU with the kernels that other devices use, to count and check their operations."""
    token = _CPU_KERNELS_DISABLED.set(True)
    try:
        yield
    finally:
        _CPU_KERNELS_DISABLED.reset(token)


def init_linear(layer: nn.Linear, std: float = INIT_STD) -> None:
    """Draw the weight from N(0, std^2) and set the bias to zero."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def pad_to_chunks(chunk: int, *parts: Tensor) -> tuple[Tensor, ...]:
    """Append zeros to parts (B, T, ...) so that T is a multiple of the chunk size."""
    padding = -parts[0].shape[1] % chunk
    return tuple(F.pad(part, (0, 0) * (part.ndim - 2) + (0, padding)) if padding else part for part in parts)


def inverse_softplus(value: Tensor) -> Tensor:
    """Solve softplus(y) = value for y, stably for small values."""
    return value + torch.log(-torch.expm1(-value))


def log_uniform(count: int, low: float, high: float) -> Tensor:
    """Draw `count` values whose logarithm is uniform between log(low) and log(high)."""
    return torch.exp(torch.rand(count) * (math.log(high) - math.log(low)) + math.log(low))
