"""Cost of a sliding_attention block in closed form, without torch; `kind.py` defines what is counted.

T D: context length, d_model; W: window; H: heads.
"""

from src.config.schema import ModelSpec
from src.model.blocks.attention import cost as attention
from src.model.blocks.kind import Activations, Cost, norm_activations


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    """As executed: the first window attends to itself, later ones (the last is padded) also to the previous one."""
    window, blocks = spec.window, -(-context_len // spec.window)
    keys = context_len if blocks == 1 else window * window * (1 + 2 * (blocks - 1)) / context_len
    return attention.windowed_attention_cost(spec, context_len, window, keys)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Add, for all windows but the first, copies of q (W) and of k and v (2 W each) to attention.

    The MATH kernel keeps scaled copies of these instead; of repeated values, all for the sake of the first window.
    """
    window, n_windows = spec.window, -(-context_len // spec.window)
    if n_windows == 1:
        return attention.activation_memory(spec, context_len)
    width, sources = spec.attention_width, attention.kept_sources(spec)
    first, rest = window / context_len, (n_windows - 1) * window / context_len
    kept = norm_activations(spec) + sources + (first + 6 * rest + 1) * width + (first + rest) * spec.n_heads
    forward = sources + (1 + first + 3 * (first + rest) + 6 * rest) * width
    masks = (first + 2 * rest) * window
    weights = spec.n_heads * masks
    math_kept = weights - (first + rest) * spec.n_heads - sources
    if spec.n_kv_heads < spec.n_heads:
        math_kept += (1 - first) * width
    return Activations(kept, 7 * rest * width, forward, 2 * width * spec.d_model, masks, math_kept, 2 * weights)
