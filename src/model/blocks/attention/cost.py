"""Cost of an attention block in closed form, without torch; `kind.py` defines what is counted.

T D: context length, d_model; H: heads.
"""

from src.config.schema import ModelSpec
from src.model.blocks.kind import BYTES_PER_FLOAT, Activations, Cost, norm_activations, norm_params


def mean_keys(context_len: int, window: int) -> float:
    """Return the mean of min(t, window) over positions t = 1..context_len: the keys that a causal query attends to."""
    full = min(context_len, window)
    return (full * (full + 1) / 2 + (context_len - full) * window) / context_len


def windowed_attention_cost(spec: ModelSpec, context_len: int, window: int, keys: float) -> Cost:
    width = spec.d_model
    matrices = 4 * width * width
    params = matrices + (4 * width if spec.bias else 0) + norm_params(spec)
    flops = 2 * matrices + 4 * width * mean_keys(context_len, window)
    executed = 2 * matrices + 4 * width * keys
    return Cost(params, params, flops, executed, 2 * width * min(context_len, window) * BYTES_PER_FLOAT)


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    return windowed_attention_cost(spec, context_len, context_len, context_len)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Count q, k and v as projected, y and one log-sum a head; with rotary positions q and k a second time.

    The document mask is one square for all heads, which the kernel stores as floats. The MATH kernel keeps T weights a
    head instead of the log-sum, and no q and k before the rotation; its peaks have the weights and a gradient of them.
    """
    width, rope = spec.d_model, spec.position == "rope"
    kept = norm_activations(spec) + (6 if rope else 4) * width + spec.n_heads
    backward, forward = (3 * width, 9 * width) if rope else (4 * width, 6 * width)
    weights = spec.n_heads * context_len
    math_kept = weights - spec.n_heads - (2 * width if rope else 0)
    return Activations(kept, backward, forward, 2 * width * width, context_len, math_kept, 2 * weights)
