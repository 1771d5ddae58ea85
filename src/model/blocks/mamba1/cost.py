"""Cost of a mamba1 block in closed form, without torch; `kind.py` defines what is counted.

D: d_model; N: d_state; K: d_conv; R: rank of dt.
"""

from src.config.schema import ModelSpec
from src.model.blocks.kind import BYTES_PER_FLOAT, Activations, Cost, norm_activations, norm_params

MAMBA1_SCAN_FLOPS = 9
"""Per token, channel and state, as Mamba's authors count: two for the product with C, seven element-wise ones for the
decay, the input and the recurrence. Without them Mamba-1 would look cheaper than it is."""
WIDTH_PER_DT_RANK = 16
"""dt has a bottleneck of R = d_model / 16 (Gu and Dao, 2023, section 3.6)."""


def dt_rank(spec: ModelSpec) -> int:
    return -(-spec.d_model // WIDTH_PER_DT_RANK)


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    """Needed and executed FLOPs are equal: the scan computes no padding."""
    width, inner, state, rank = spec.d_model, spec.d_inner, spec.d_state, dt_rank(spec)
    matrices = 3 * inner * width + inner * (rank + 2 * state) + inner * rank
    params = matrices + inner * (spec.d_conv + 1) + inner + inner * (state + 1) + norm_params(spec)
    flops = 2 * matrices + 2 * spec.d_conv * inner + MAMBA1_SCAN_FLOPS * inner * state
    state_bytes = inner * (spec.d_conv - 1 + state) * BYTES_PER_FLOAT
    return Cost(params, params, flops, flops, state_bytes)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """The states of one chunk at a time are held, and only those between chunks are saved."""
    inner, state, chunk = spec.d_inner, spec.d_state, min(spec.chunk_size, context_len)
    coefficients = dt_rank(spec) + 2 * state
    states = state * inner / context_len
    starts = -(-context_len // chunk) * states
    convolved = (2 + (context_len + spec.d_conv - 1) / context_len) * inner
    kept = norm_activations(spec) + 2 * inner + convolved + coefficients + 5 * inner + starts
    backward = 2 * inner + 2 * state + (3 * chunk + 2) * states
    forward = spec.d_model + 5 * inner + coefficients + 2 * chunk * states + starts
    return Activations(kept, backward, forward, 2 * inner * spec.d_model)
