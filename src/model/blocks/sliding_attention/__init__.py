"""Causal attention within a sliding window."""

from src.model.blocks.kind import Kind
from src.model.blocks.sliding_attention import cost

KIND = Kind("SlidingAttention", cost.block_cost, ("window",), cost.activation_memory)
