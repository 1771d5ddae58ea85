"""Causal attention with queries and keys normalized in each head (QK-norm)."""

from src.model.blocks.kind import Kind
from src.model.blocks.qk_norm_attention import cost

KIND = Kind("QKNormAttention", cost.block_cost, (), cost.activation_memory)
