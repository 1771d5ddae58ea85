"""The kinds of residual block, by the name that `architecture.pattern` uses."""

from src.model.blocks.attention import Attention, SlidingAttention
from src.model.blocks.base import Block, BlockOutput
from src.model.blocks.mamba import Mamba
from src.model.blocks.mlp import MLP
from src.model.blocks.moe import MoE

BLOCKS: dict[str, type[Block]] = {
    "attention": Attention,
    "sliding_attention": SlidingAttention,
    "mlp": MLP,
    "moe": MoE,
    "mamba": Mamba,
}

__all__ = ["BLOCKS", "Block", "BlockOutput"]
