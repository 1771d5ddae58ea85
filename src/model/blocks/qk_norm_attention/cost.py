"""Cost of a qk_norm_attention block in closed form, without torch; `kind.py` defines what is counted."""

from dataclasses import replace

from src.config.schema import ModelSpec
from src.model.blocks.attention import cost as attention
from src.model.blocks.kind import Activations, Cost


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    """Add the weights of the two norms to attention."""
    weights = 2 * spec.head_dim
    return attention.block_cost(spec, context_len) + Cost(weights, weights, 0, 0, 0)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Add what the norms keep of queries and keys to attention: their input, their output and its deviations."""
    plain = attention.activation_memory(spec, context_len)
    normed, projected = spec.attention_width + spec.kv_width, attention.projected_width(spec)
    more = normed + spec.n_heads + spec.n_kv_heads
    kept = plain.kept + more
    if spec.position != "rope":  # the weighted output is what is kept for the kernel, and the input besides
        kept += normed
    elif spec.n_kv_heads < spec.n_heads:
        kept += projected
    math = plain.kept + plain.math_kept + more + projected
    return replace(plain, kept=kept, math_kept=math - kept)
