"""Causal attention over all previous positions."""

from src.model.blocks.attention import cost
from src.model.blocks.kind import Kind

KIND = Kind("Attention", cost.block_cost, (), cost.activation_memory)
