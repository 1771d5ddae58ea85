"""What each kind of block holds in memory while it computes, in closed form and without torch.

All in floats per token, averaged over a sequence of the context length, the norm before the block included. Small
tables that do not grow with the batch (the angles of rotary positions, causal masks) are left out. The terms stand in
the order in which the block's `forward` makes its tensors; `tests/model/test_memory.py` holds them against what
autograd keeps and against the allocator.

T D: context length, d_model; F: d_ff, or expert_d_ff; E, k: experts, experts a token; H: heads; W: window; N: d_state;
K: d_conv; Q: chunk; R: rank of dt.
"""

from dataclasses import dataclass

from src.config import ModelSpec
from src.model.blocks.costs import mamba1_rank, padding


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


def norm_kept(spec: ModelSpec) -> float:
    """Input and output; RMSNorm keeps what lies between as well."""
    return 3 * spec.d_model + 1 if spec.norm == "rmsnorm" else 2 * spec.d_model + 2


def attention(spec: ModelSpec, context_len: int) -> Activations:
    """Kept: q k v as projected, y, a log-sum a head; with rotary positions q and k once more.

    The mask of documents is a square that all heads share, which the kernel keeps in floats.
    """
    width, rope = spec.d_model, spec.position == "rope"
    kept = norm_kept(spec) + (6 if rope else 4) * width + spec.n_heads
    backward, forward = (3 * width, 9 * width) if rope else (4 * width, 6 * width)
    return Activations(kept, backward, forward, 2 * width * width, context_len)


def sliding_attention(spec: ModelSpec, context_len: int) -> Activations:
    """Besides, for all windows but the first: copies of q (W) and of k and v (2W each)."""
    window, n_windows = spec.window, -(-context_len // spec.window)
    if n_windows == 1:
        return attention(spec, context_len)
    width, turned = spec.d_model, 2 if spec.position == "rope" else 0
    first, rest = window / context_len, (n_windows - 1) * window / context_len
    kept = norm_kept(spec) + (3 + turned + first + 6 * rest + 1) * width + (first + rest) * spec.n_heads
    forward = (4 + turned + first + 3 * (first + rest) + 6 * rest) * width
    masks = (first + 2 * rest) * window
    return Activations(kept, 7 * rest * width, forward, 2 * width * width, masks)


def mlp(spec: ModelSpec, context_len: int) -> Activations:
    """SwiGLU keeps gate, up, silu(gate) and their product; GELU its input and output."""
    kept, backward = (4, 2) if spec.mlp == "swiglu" else (2, 1)
    forward = spec.d_model + kept * spec.d_ff
    return Activations(norm_kept(spec) + kept * spec.d_ff, backward * spec.d_ff, forward, 2 * spec.d_ff * spec.d_model)


def moe(spec: ModelSpec, context_len: int) -> Activations:
    """Kept: the router's scores and choices (whole numbers have two floats), a copy of the token for each choice,
    the experts' inner tensors, and their answers.
    """
    width, chosen = spec.d_model, spec.top_k
    router = 2 * spec.n_experts + 8 * chosen + 2
    inner = (4 if spec.mlp == "swiglu" else 2) * chosen * spec.expert_d_ff
    kept = norm_kept(spec) + router + inner + 2 * chosen * width
    return Activations(kept, (chosen + 1) * width, router + (2 + 4 * chosen) * width)


def mamba(spec: ModelSpec, context_len: int) -> Activations:
    """Decay matrices of Q x Q a head, and the states between chunks, are what grows with the chunk size.

    So it is on other devices and in compiled models; a CPU's own form (`FactorisedSSD`) keeps about a quarter less.
    """
    inner, state, heads, chunk = spec.d_inner, spec.d_state, spec.n_ssm_heads, spec.chunk_size
    channels, projected = inner + 2 * state, 2 * inner + 2 * state + heads
    filled = padding(context_len, chunk)
    squares = 2 * chunk * heads * filled
    states = state * inner * filled / chunk
    if context_len == 1:
        return Activations(0, 0, spec.d_model + projected + channels + 2 * state * inner)
    convolved = (2 + (context_len + spec.d_conv - 1) / context_len) * channels
    in_chunks = (4 * inner + (2 + 1 / chunk) * heads + chunk) * filled + squares
    copies = 0.0
    if filled > 1:  # x, dt, b and c are copied
        copies = inner * filled
        in_chunks += copies + heads * (filled - 1) + 2 * state * filled
    kept = norm_kept(spec) + projected + convolved + 2 * heads + in_chunks
    kept += 2 * states - state * inner / context_len + 5 * inner + 1
    forward = spec.d_model + projected + channels + (3 * inner + 3 * heads) * filled + squares
    forward += copies + 2 * states + max(2 * inner * filled, states)
    return Activations(kept, 3 * inner, forward, 2 * inner * spec.d_model)


def mamba1(spec: ModelSpec, context_len: int) -> Activations:
    """States are held for one chunk at a time, and kept between chunks alone."""
    inner, state, chunk = spec.d_inner, spec.d_state, min(spec.chunk_size, context_len)
    coefficients = mamba1_rank(spec) + 2 * state
    states = state * inner / context_len
    starts = -(-context_len // chunk) * states
    convolved = (2 + (context_len + spec.d_conv - 1) / context_len) * inner
    kept = norm_kept(spec) + 2 * inner + convolved + coefficients + 5 * inner + starts
    backward = 2 * inner + 2 * state + (3 * chunk + 2) * states
    forward = spec.d_model + 5 * inner + coefficients + 2 * chunk * states + starts
    return Activations(kept, backward, forward, 2 * inner * spec.d_model)
