"""Cost of a conv_attention block in closed form, without torch; `kind.py` defines what is counted."""

from dataclasses import replace

from src.config.schema import ModelSpec
from src.model.blocks.attention import cost as attention
from src.model.blocks.kind import BYTES_PER_FLOAT, Activations, Cost


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    """Add the convolution of queries, keys and values to attention."""
    width = attention.projected_width(spec)
    weights, state_bytes = width * spec.d_conv, width * (spec.d_conv - 1) * BYTES_PER_FLOAT
    return attention.block_cost(spec, context_len) + Cost(weights, weights, 2 * weights, 2 * weights, state_bytes)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Add the convolution's input, with the K - 1 positions before it, to attention."""
    plain, width = attention.activation_memory(spec, context_len), attention.projected_width(spec)
    padded = width * (context_len + spec.d_conv - 1) / context_len
    return replace(plain, kept=plain.kept + padded, forward=plain.forward + padded)
