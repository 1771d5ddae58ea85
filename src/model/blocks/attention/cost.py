"""Cost of an attention block in closed form, without torch; `kind.py` defines what is counted.

T D: context length, d_model; H: heads of queries; Q, K: width of the queries of all heads, of the keys.
"""

from src.config.schema import ModelSpec
from src.model.blocks.kind import BYTES_PER_FLOAT, Activations, Cost, norm_activations, norm_params


def mean_keys(context_len: int, window: int) -> float:
    """Return the mean of min(t, window) over positions t = 1..context_len: the keys that a causal query attends to."""
    full = min(context_len, window)
    return (full * (full + 1) / 2 + (context_len - full) * window) / context_len


def projected_width(spec: ModelSpec) -> int:
    """Return the width of queries, keys and values together."""
    return spec.attention_width + 2 * spec.kv_width


def windowed_attention_cost(spec: ModelSpec, context_len: int, window: int, keys: float) -> Cost:
    width, queries, projected = spec.d_model, spec.attention_width, projected_width(spec)
    matrices = width * (projected + queries)
    biases = (projected if spec.bias or spec.qkv_bias else 0) + (width if spec.bias else 0)
    params = matrices + biases + norm_params(spec)
    flops = 2 * matrices + 4 * queries * mean_keys(context_len, window)
    executed = 2 * matrices + 4 * queries * keys
    return Cost(params, params, flops, executed, 2 * spec.kv_width * min(context_len, window) * BYTES_PER_FLOAT)


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    return windowed_attention_cost(spec, context_len, context_len, context_len)


def kept_sources(spec: ModelSpec) -> int:
    """Count q, k and v as they are kept: as projected, q and k a second time if they are rotated.

    Grouped keys and values are kept as repeated for the kernel; of the rest, only what the queries are a part of.
    """
    rotated, projected = spec.attention_width + spec.kv_width, projected_width(spec)
    rope = spec.position == "rope"
    if spec.n_kv_heads == spec.n_heads:
        return projected + (rotated if rope else 0)
    return 2 * spec.attention_width + (rotated if rope else projected)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Count what `kept_sources` does, y, and one log-sum a head.

    The document mask is one square for all heads, which the kernel stores as floats. The MATH kernel keeps T weights a
    head instead of the log-sum, and scaled or copied q, k and v; its peaks have the weights and a gradient of them.
    """
    width, sources, projected = spec.attention_width, kept_sources(spec), projected_width(spec)
    kept = norm_activations(spec) + sources + width + spec.n_heads
    if spec.position == "rope":
        backward, forward = 3 * width, projected + 3 * (spec.attention_width + spec.kv_width)
    else:
        backward, forward = 4 * width, projected + 3 * width
    weights = spec.n_heads * context_len
    math_kept = weights - spec.n_heads + 3 * width - sources
    return Activations(kept, backward, forward, 2 * width * spec.d_model, context_len, math_kept, 2 * weights)
