"""Cost of a gated_deltanet block in closed form, without torch; `kind.py` defines what is counted."""

from src.config.schema import ModelSpec
from src.model.blocks.kind import (
    BYTES_PER_FLOAT,
    Activations,
    Cost,
    mean_keys_in_chunk,
    norm_activations,
    norm_params,
    padding_factor,
)

VALUE_PER_KEY = 2
"""P = 2 N, and H N = 3/4 d_model: a layer then has 6 d_model^2 parameters, as in the paper."""


def count_heads(spec: ModelSpec) -> int:
    """Return H: the number of heads, each with keys as wide as an attention head, 3/4 of d_model in total."""
    return max(1, 3 * spec.d_model // (4 * spec.head_dim))


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    """Count the triangular system as a product of its Q x Q matrix with the solution, of which half is needed."""
    width, key, heads, chunk = spec.d_model, spec.head_dim, count_heads(spec), spec.chunk_size
    value = VALUE_PER_KEY * key
    channels = heads * (2 * key + value)
    matrices = width * heads * (2 * key + 3 * value + 2)
    params = matrices + channels * spec.d_conv + 2 * heads + value + norm_params(spec)
    outside = 2 * matrices + 2 * spec.d_conv * channels
    # k k^T and q k^T; the solution of the system; reads of writes within the chunk
    per_key = 2 * heads * (2 * key + (value + key) + value)
    states = 2 * heads * 3 * key * value  # read under keys, read under queries, written
    flops = outside + per_key * mean_keys_in_chunk(context_len, chunk) + states
    executed = outside + (per_key * chunk + states) * padding_factor(context_len, chunk)
    state_bytes = (channels * (spec.d_conv - 1) + heads * key * value) * BYTES_PER_FLOAT
    return Cost(params, params, flops, executed, state_bytes)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Matrices of Q x Q per head and the states between chunks depend on the chunk size."""
    heads, chunk = count_heads(spec), spec.chunk_size
    key, value = heads * spec.head_dim, VALUE_PER_KEY * heads * spec.head_dim
    channels, filled = 2 * key + value, padding_factor(context_len, chunk)
    states = spec.head_dim * value
    outside = 2 * value + channels + 2 * heads
    if context_len == 1:
        return Activations(0, 0, spec.d_model + outside + channels + 3 * states)
    convolved = (2 + (context_len + spec.d_conv - 1) / context_len) * channels
    in_chunks = (11 * key + 4 * value + (2 + 1 / chunk) * heads + 5 * chunk * heads + 2 * states / chunk) * filled
    if filled > 1:  # beta and v are copied
        in_chunks += (heads + value) * filled
    in_chunks -= channels * chunk / context_len  # reads of the first chunk, and the last chunk's update of the state
    kept = norm_activations(spec) + outside
    recomputed = convolved + 4 * heads + in_chunks + 4 * value
    forward = (
        spec.d_model + outside + channels + (8 * key + 4 * value + 3 * chunk * heads + 2 * states / chunk) * filled
    )
    mixed = block_cost(spec, context_len).executed_flops - 2 * spec.d_model * outside
    return Activations(kept, recomputed + 3 * value, forward, 2 * value * spec.d_model, mix_flops=mixed)
