"""What a block of mamba1 costs, in closed form and without torch; `kind.py` says how it is counted.

D: d_model; N: d_state; K: d_conv; R: rank of dt.
"""

from src.config.schema import ModelSpec
from src.model.blocks.kind import BYTES_PER_FLOAT, Activations, Cost, norm_kept, norm_params

MAMBA1_SCAN_FLOPS = 9
"""Per token, channel and state, as Mamba's authors count their kernel: two are the product with C, seven are the decay,
the input and the recurrence, element by element. Left out, they would make Mamba-1 look cheaper than it is."""
MAMBA1_WIDTH_PER_RANK = 16
"""dt comes through a bottleneck of R = d_model / 16 (Gu and Dao, 2023, section 3.6)."""


def dt_rank(spec: ModelSpec) -> int:
    return -(-spec.d_model // MAMBA1_WIDTH_PER_RANK)


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    """Mamba-1: every position is scanned, and none that is padding, so needed and executed are the same."""
    width, inner, state, rank = spec.d_model, spec.d_inner, spec.d_state, dt_rank(spec)
    matrices = 3 * inner * width + inner * (rank + 2 * state) + inner * rank
    params = matrices + inner * (spec.d_conv + 1) + inner + inner * (state + 1) + norm_params(spec)
    flops = 2 * matrices + 2 * spec.d_conv * inner + MAMBA1_SCAN_FLOPS * inner * state
    state_bytes = inner * (spec.d_conv - 1 + state) * BYTES_PER_FLOAT
    return Cost(params, params, flops, flops, state_bytes)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """States are held for one chunk at a time, and kept between chunks alone."""
    inner, state, chunk = spec.d_inner, spec.d_state, min(spec.chunk_size, context_len)
    coefficients = dt_rank(spec) + 2 * state
    states = state * inner / context_len
    starts = -(-context_len // chunk) * states
    convolved = (2 + (context_len + spec.d_conv - 1) / context_len) * inner
    kept = norm_kept(spec) + 2 * inner + convolved + coefficients + 5 * inner + starts
    backward = 2 * inner + 2 * state + (3 * chunk + 2) * states
    forward = spec.d_model + 5 * inner + coefficients + 2 * chunk * states + starts
    return Activations(kept, backward, forward, 2 * inner * spec.d_model)
