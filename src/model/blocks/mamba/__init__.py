"""Mamba-2."""

from src.model.blocks.kind import Kind
from src.model.blocks.mamba import cost

KIND = Kind("Mamba", cost.block_cost, ("d_state", "d_conv", "expand", "d_inner", "chunk_size"), cost.activation_memory)
