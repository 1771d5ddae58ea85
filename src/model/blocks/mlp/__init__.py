"""The feed-forward block: SwiGLU or GELU."""

from src.model.blocks.kind import Kind
from src.model.blocks.mlp import cost

KIND = Kind("MLP", cost.block_cost, ("d_ff",), cost.activation_memory)
