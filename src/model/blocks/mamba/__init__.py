"""Mamba-2."""

from src.model.blocks.kind import Kind
from src.model.blocks.mamba import cost

SETTINGS = ("d_state", "d_conv", "expand", "d_inner", "n_groups", "chunk_size", "negative_eigenvalues")
KIND = Kind("Mamba", cost.block_cost, SETTINGS, cost.activation_memory)
