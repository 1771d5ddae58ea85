"""Cost of an mlp block in closed form, without torch; `kind.py` defines what is counted.

D: d_model; F: d_ff.
"""

from src.config.schema import ModelSpec
from src.model.blocks.kind import Activations, Cost, norm_activations, norm_params


def block_cost(spec: ModelSpec, context_len: int) -> Cost:
    inputs = 2 if spec.mlp == "swiglu" else 1
    matrices = (inputs + 1) * spec.d_model * spec.d_ff
    params = matrices + (inputs * spec.d_ff + spec.d_model if spec.bias else 0) + norm_params(spec)
    return Cost(params, params, 2 * matrices, 2 * matrices, 0)


def activation_memory(spec: ModelSpec, context_len: int) -> Activations:
    """Count gate, up, silu(gate) and their product for SwiGLU; input and output for GELU."""
    kept, backward = (4, 2) if spec.mlp == "swiglu" else (2, 1)
    forward = spec.d_model + kept * spec.d_ff
    return Activations(
        norm_activations(spec) + kept * spec.d_ff, backward * spec.d_ff, forward, 2 * spec.d_ff * spec.d_model
    )
