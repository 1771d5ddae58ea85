"""The description of a kind of block: its class, cost and activation memory. Importable without torch.

A multiply and an add are two FLOPs; element-wise work is not counted, except in Mamba-1's scan, which consists of it.
FLOPs are counted twice: as *needed*, without what the causal mask discards, and as *executed* by our code, including
masked entries and padding (attention as in torch's MATH backend). All values are per token, averaged over a sequence of
the context length, and include the norm before the block. `tests/contract` compares the formulas with built models.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import add

from src.config.schema import ModelSpec

BYTES_PER_FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """The cost of one block, including its norm."""

    params: int
    active_params: int
    """Parameters used for one token."""
    flops: float
    """Forward pass, per token, as needed."""
    executed_flops: float
    """Forward pass, per token, as executed."""
    state_bytes: int
    """Decoding state per sequence at the context length, in fp32."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class Activations:
    """Floats per token that one block needs, besides weights, gradients and decoding state.

    With activation checkpointing only the block's input is saved; the backward pass recomputes the rest.
    """

    kept: float = 0
    """Saved from the forward pass for the backward pass, including the block's input."""
    backward: float = 0
    """Peak of the backward pass beyond `kept`; the gradient of the residual stream is not counted."""
    forward: float = 0
    """Peak of a pass without gradients (decoding: context length 1); the input is not counted."""
    last_product_flops: float = 0
    """Per token: FLOPs of the last product if its result is not saved, so that it need not be recomputed; else 0."""
    masks: float = 0
    """Saved in addition with document masks. State-space blocks save up to 7% less then, which is ignored."""
    math_kept: float = 0
    """Saved in addition where SDPA stores its attention weights: torch's MATH kernel, the one for training on MPS."""
    math_peak: float = 0
    """Added there to the peaks of both passes."""
    mix_flops: float = 0
    """Per token: FLOPs that the backward pass recomputes without activation checkpointing (`Block.recompute`)."""

    def with_math_attention(self) -> "Activations":
        """Return the floats of the same block if attention is computed by torch's MATH kernel."""
        backward, forward = (peak + self.math_peak for peak in (self.backward, self.forward))
        return replace(self, kept=self.kept + self.math_kept, backward=backward, forward=forward)


def no_activations(spec: ModelSpec, context_len: int) -> Activations:
    """The default for a kind without a formula of its activation memory."""
    return Activations()


@dataclass(frozen=True)
class Kind:
    """One kind of block: its class, its cost, and the architecture settings that it reads."""

    block: str
    """The class in `module.py` of the kind's folder."""
    cost: Callable[[ModelSpec, int], Cost]
    """From a spec and a context length in tokens; no torch."""
    settings: tuple[str, ...] = ()
    """Fields of `ArchitectureConfig`, or keys of its `settings`."""
    activations: Callable[[ModelSpec, int], Activations] = no_activations
    """From a spec and a context length in tokens; a kind without it is excluded from memory estimates."""


def norm_params(spec: ModelSpec) -> int:
    return spec.d_model * (2 if spec.norm == "layernorm" and spec.bias else 1)


def padding_factor(context_len: int, chunk: int) -> float:
    """Return the positions computed per real position if a sequence is padded to whole chunks."""
    return -(-context_len // chunk) * chunk / context_len


def mean_keys_in_chunk(context_len: int, chunk: int) -> float:
    """Return the mean over positions of the keys from the start of its chunk up to a position."""
    chunks, rest = divmod(context_len, chunk)
    return (chunks * chunk * (chunk + 1) + rest * (rest + 1)) / 2 / context_len


def norm_activations(spec: ModelSpec) -> float:
    """Count input and output; RMSNorm saves its intermediate results too."""
    return 3 * spec.d_model + 1 if spec.norm == "rmsnorm" else 2 * spec.d_model + 2
