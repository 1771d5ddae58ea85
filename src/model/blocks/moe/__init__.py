"""Mixture of experts."""

from src.model.blocks.kind import Kind
from src.model.blocks.moe import cost

KIND = Kind(
    "MoE",
    cost.block_cost,
    ("n_experts", "top_k", "expert_d_ff", "aux_loss_weight", "router_z_loss_weight", "router_bias_rate"),
    cost.activation_memory,
)
