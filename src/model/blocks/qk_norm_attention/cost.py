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
    """Add what the norms save of queries and keys to attention; without rotary positions both input and output."""
    plain = attention.activation_memory(spec, context_len)
    rope = spec.position == "rope"
    copies, math_copies = (2, 3) if rope else (4, 1)
    return replace(
        plain,
        kept=plain.kept + copies * spec.d_model + 2 * spec.n_heads,
        math_kept=plain.math_kept + math_copies * spec.d_model,
    )
