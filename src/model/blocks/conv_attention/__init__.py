"""Causal attention with a short convolution over queries, keys and values."""

from src.model.blocks.conv_attention import cost
from src.model.blocks.kind import Kind

KIND = Kind("ConvAttention", cost.block_cost, ("d_conv",), cost.activation_memory)
