"""What every block is: a causal map of (B, T, D) to (B, T, D) that owns its initialisation and its decoding state.

The residual stream and the norm before a block belong to `LanguageModel`. What a block costs is in `costs.py`, so that
sizes can be matched without torch, or in the block's own file where that is one of yours.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

INIT_STD = 0.02


class BlockOutput(NamedTuple):
    """What a block gives back."""

    y: Tensor
    """(B, T, D), to be added to the residual stream."""
    aux_loss: Tensor | None = None
    """Scalar, weighted, to be added to the training loss."""
    expert_load: Tensor | None = None
    """(E,): how many times each expert was chosen in this batch, no gradient."""
    router_z: Tensor | None = None
    """Scalar: mean over tokens of logsumexp(router logits)^2, unweighted, no gradient."""


class Cache(Protocol):
    """The state of one block while decoding: filled by one prefill of any length, then one token at a time."""

    offset: int
    """How many positions it has seen."""


class Block(nn.Module):
    """A causal sequence map with its own init and decoding state."""

    memory_budget = 1.0
    """Share of its activations that a compiled graph keeps on a CPU; what is cheapest to compute again is not kept."""

    def forward(self, x: Tensor, cache: Any = None, documents: Tensor | None = None) -> BlockOutput:
        """Map x (B, T, D); with a cache, x continues what the cache has seen.

        documents: (B, T), whole numbers that never fall along a row. A position takes nothing from another document,
        as if each had been given alone. Never together with a cache, which holds one document.
        """
        raise NotImplementedError(type(self).__name__)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> Cache | None:
        """Build an empty decoding state with the device and dtype of `like`; None where the block needs none."""
        return None

    def init_weights(self, residual_scale: float) -> None:
        """Set every weight; the output projection is scaled by `residual_scale`, 1 / sqrt(number of blocks)."""
        raise NotImplementedError(type(self).__name__)

    def fused(self) -> dict[str, tuple[int, ...]]:
        """Name the weights that are several maps, one below the other, with the rows of each."""
        return {}

    def no_decay(self) -> set[str]:
        """Name the parameters of this block that weight decay must leave alone, beyond norms and biases."""
        return set()


def on_cpu(x: Tensor) -> bool:
    """Tell whether a CPU computes with x as the code says.

    Then looking at values costs nothing: other devices would have to be waited for, and a compiler's graph be broken.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _BLIND.get()


_BLIND = ContextVar("blind", default=False)


@contextmanager
def blind() -> Iterator[None]:
    """Let a CPU compute as a device would that is not to be waited for: to count and check what that one does."""
    token = _BLIND.set(True)
    try:
        yield
    finally:
        _BLIND.reset(token)


def init_linear(layer: nn.Linear, std: float = INIT_STD) -> None:
    """Draw the weight from N(0, std^2) and zero the bias."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def inverse_softplus(value: Tensor) -> Tensor:
    """Solve softplus(y) = value for y, stably for small values."""
    return value + torch.log(-torch.expm1(-value))


def log_uniform(count: int, low: float, high: float) -> Tensor:
    """Draw `count` values whose logarithm is uniform between log(low) and log(high)."""
    return torch.exp(torch.rand(count) * (math.log(high) - math.log(low)) + math.log(low))
