"""Cost of a mamba block in closed form, without torch; `kind.py` defines what is counted.

D: d_model; N: d_state; H: heads; G: groups; K: d_conv; Q: chunk.
"""

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


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    """Count, within a chunk, a masked product of C B^T (one a group) with x, and the states between chunks."""
    inner, state, heads, chunk = spec.d_inner, spec.d_state, spec.n_ssm_heads, spec.chunk_size
    shared = spec.n_groups * state
    conv_channels = inner + 2 * shared
    matrices = spec.d_model * (2 * inner + 2 * shared + heads) + inner * spec.d_model
    params = matrices + conv_channels * (spec.d_conv + 1) + 3 * heads + inner + norm_params(spec)
    outside = 2 * matrices + 2 * spec.d_conv * conv_channels
    per_key, states = 2 * (shared + inner), 4 * state * inner
    flops = outside + per_key * mean_keys_in_chunk(context_len, chunk) + states
    executed = outside + (per_key * chunk + states) * padding_factor(context_len, chunk)
    state_bytes = (conv_channels * (spec.d_conv - 1) + inner * state) * BYTES_PER_FLOAT
    return Cost(params, params, flops, executed, state_bytes)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Decay matrices of Q x Q per head and the states between chunks depend on the chunk size.

    This holds for eager models on other devices; the CPU kernel (`FactorizedSSD`) needs about a quarter less while a
    block is computed again. A compiled graph keeps up to four times as much, depending on its budget.
    """
    inner, state, heads, chunk = spec.d_inner, spec.d_state, spec.n_ssm_heads, spec.chunk_size
    shared = spec.n_groups * state
    channels, projected = inner + 2 * shared, 2 * inner + 2 * shared + heads
    filled = padding_factor(context_len, chunk)
    squares = 2 * chunk * heads * filled
    states = state * inner * filled / chunk
    if context_len == 1:
        return Activations(0, 0, spec.d_model + projected + channels + 2 * state * inner)
    convolved = (2 + (context_len + spec.d_conv - 1) / context_len) * channels
    in_chunks = (4 * inner + (2 + 1 / chunk) * heads + spec.n_groups * chunk) * filled + squares
    copies = 0.0
    if filled > 1:  # x, dt, b and c are copied
        copies = inner * filled
        in_chunks += copies + heads * (filled - 1) + 2 * shared * filled
    kept = norm_activations(spec) + projected + inner
    recomputed = convolved + 2 * heads + in_chunks + 2 * states - state * inner / context_len + 4 * inner + 1
    forward = spec.d_model + projected + channels + (3 * inner + 3 * heads) * filled + squares
    forward += copies + 2 * states + max(2 * inner * filled, states)
    matrices = spec.d_model * projected + inner * spec.d_model
    mixed = block_cost(spec, context_len).executed_flops - 2 * matrices
    return Activations(kept, recomputed + 3 * inner, forward, 2 * inner * spec.d_model, mix_flops=mixed)
