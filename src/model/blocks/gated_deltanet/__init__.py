"""Gated DeltaNet: a linear recurrence with key-wise overwrites (Yang, Kautz and Hatamizadeh, 2024)."""

from src.model.blocks.gated_deltanet import cost
from src.model.blocks.kind import Kind

KIND = Kind("GatedDeltaNet", cost.block_cost, ("d_conv", "chunk_size", "negative_eigenvalues"), cost.activation_memory)
