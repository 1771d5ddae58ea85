"""What every kind of block states of itself: its class, its cost, and what it keeps in memory. Opens without torch.

A multiply and an add are two FLOPs; element-wise work is not counted, but for Mamba-1's scan, which is hardly anything
else. FLOPs are given twice: as *needed*, when nothing is computed that the causal mask throws away, and as *executed*
by our code, whole squares and padding included (attention as torch's MATH backend does it). Everything is per token,
averaged over a sequence of the context length, and includes the norm before the block. `tests/contract` compares the
formulas with the models that are built.
"""

from collections.abc import Callable
from dataclasses import dataclass

from src.config.schema import ModelSpec

BYTES_PER_FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """The cost of one block, its norm included."""

    params: int
    active_params: int
    """Parameters that work for one token."""
    flops: float
    """Forward, per token, as needed."""
    executed_flops: float
    """Forward, per token, as executed."""
    state_bytes: int
    """Kept per sequence while decoding at the context length, in fp32."""


@dataclass(frozen=True)
class Activations:
    """Floats per token that one block needs, besides weights, their gradients, and the decoding state.

    Activation checkpointing keeps the block's input alone, and computes the rest again in the backward pass.
    """

    kept: float = 0
    """From the forward pass until the backward pass, the block's input included."""
    backward: float = 0
    """At the worst moment of the backward pass, more than was kept; the residual stream's gradient is not counted."""
    forward: float = 0
    """At the worst moment of a pass without gradients (decoding: context length 1); the input is not counted."""
    last_product_flops: float = 0
    """Per token: what need not be computed again, since nothing is kept of it. 0 where something is."""
    masks: float = 0
    """Kept besides where documents are masked. That a state-space block keeps up to 7% less then is left out."""


def no_activations(spec: ModelSpec, context_len: int) -> Activations:
    """Stand in for a kind that does not say what it keeps in memory."""
    return Activations()


@dataclass(frozen=True)
class Kind:
    """One kind of block: its class, what it costs, and which settings of an architecture it reads."""

    block: str
    """The class in `module.py` of the kind's folder."""
    cost: Callable[[ModelSpec, int], Cost]
    """From a spec and a context length in tokens; no torch."""
    settings: tuple[str, ...] = ()
    """Fields of `ArchitectureConfig`, or keys of its `settings`."""
    activations: Callable[[ModelSpec, int], Activations] = no_activations
    """From a spec and a context length in tokens; a kind that does not say is left out of memory estimates."""


def norm_params(spec: ModelSpec) -> int:
    return spec.d_model * (2 if spec.norm == "layernorm" and spec.bias else 1)


def padding(context_len: int, chunk: int) -> float:
    """Positions computed per position that is there, where a sequence is filled up to whole chunks."""
    return -(-context_len // chunk) * chunk / context_len


def mean_keys_in_chunk(context_len: int, chunk: int) -> float:
    """Mean over positions of the keys from the start of a position's own chunk up to itself."""
    chunks, rest = divmod(context_len, chunk)
    return (chunks * chunk * (chunk + 1) + rest * (rest + 1)) / 2 / context_len


def norm_kept(spec: ModelSpec) -> float:
    """Input and output; RMSNorm keeps what lies between as well."""
    return 3 * spec.d_model + 1 if spec.norm == "rmsnorm" else 2 * spec.d_model + 2
