"""Mamba-1."""

from src.model.blocks.kind import Kind
from src.model.blocks.mamba1 import cost

SETTINGS = ("d_state", "d_conv", "expand", "d_inner", "chunk_size", "negative_eigenvalues")
KIND = Kind("Mamba1", cost.block_cost, SETTINGS, cost.activation_memory)
