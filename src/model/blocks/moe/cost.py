"""Cost of a moe block in closed form, without torch; `kind.py` defines what is counted.

D: d_model; F: expert_d_ff; E, k: experts, experts per token.
"""

from src.config.schema import ModelSpec
from src.model.blocks.kind import Activations, Cost, norm_activations, norm_params


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    expert = (3 if spec.mlp == "swiglu" else 2) * spec.d_model * spec.expert_d_ff
    router = spec.d_model * spec.n_experts
    active = spec.top_k * expert + router
    norm = norm_params(spec)
    return Cost(spec.n_experts * expert + router + norm, active + norm, 2 * active, 2 * active, 0)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Count the router's scores and choices (an integer is two floats), a copy of the token per choice, the experts'
    inner activations and their outputs.
    """
    width, top_k = spec.d_model, spec.top_k
    router = 2 * spec.n_experts + 8 * top_k + 2
    inner = (4 if spec.mlp == "swiglu" else 2) * top_k * spec.expert_d_ff
    kept = norm_activations(spec) + router + inner + 2 * top_k * width
    return Activations(kept, (top_k + 1) * width, router + (2 + 4 * top_k) * width)
