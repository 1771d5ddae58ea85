"""What a block of moe costs, in closed form and without torch; `kind.py` says how it is counted.

D: d_model; F: expert_d_ff; E, k: experts, experts a token.
"""

from src.config.schema import ModelSpec
from src.model.blocks.kind import Activations, Cost, norm_kept, norm_params


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    expert = (3 if spec.mlp == "swiglu" else 2) * spec.d_model * spec.expert_d_ff
    router = spec.d_model * spec.n_experts
    active = spec.top_k * expert + router
    norm = norm_params(spec)
    return Cost(spec.n_experts * expert + router + norm, active + norm, 2 * active, 2 * active, 0)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Kept: the router's scores and choices (whole numbers have two floats), a copy of the token for each choice,
    the experts' inner tensors, and their answers.
    """
    width, chosen = spec.d_model, spec.top_k
    router = 2 * spec.n_experts + 8 * chosen + 2
    inner = (4 if spec.mlp == "swiglu" else 2) * chosen * spec.expert_d_ff
    kept = norm_kept(spec) + router + inner + 2 * chosen * width
    return Activations(kept, (chosen + 1) * width, router + (2 + 4 * chosen) * width)
