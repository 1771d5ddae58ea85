"""Causal attention over a sliding window of the past (Longformer; Mistral).

It is computed block by block, so that its cost grows with T * W and not with T * T on any device.

B, T: batch, position; H: heads; P: head_dim; W: window; n: blocks of W.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.attention.module import Attention, KeyValueCache, causal_attention


def sliding_attention(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
    """Attend from each position to itself and the window - 1 before it; shapes as above.

    Queries are cut into blocks of W. The first block is plain causal attention; every later one sees its own keys
    and those of the block before through one and the same band. Blocks stand in the batch dimension, so that heads
    share a mask.
    """
    length = q.shape[2]
    if length <= window:
        return causal_attention(q, k, v, documents)
    before = None if documents is None else documents[:, :window]
    first = causal_attention(q[:, :, :window], k[:, :, :window], v[:, :, :window], before)
    n_blocks = -(-length // window)
    padding = n_blocks * window - length

    def blocks(part: Tensor) -> Tensor:  # (B, n, H, W, P)
        return F.pad(part, (0, 0, 0, padding)).unflatten(2, (n_blocks, window)).transpose(1, 2)

    def pairs(blocks: Tensor, dim: int) -> Tensor:  # each block after the first, behind the one before
        return torch.cat((blocks[:, :-1], blocks[:, 1:]), dim)

    query = torch.arange(window, device=q.device)[:, None] + window
    key = torch.arange(2 * window, device=q.device)
    seen = (key <= query) & (key > query - window)
    if documents is not None:
        numbers = F.pad(documents, (0, padding)).unflatten(1, (n_blocks, window))
        same = numbers[:, 1:, :, None] == pairs(numbers, 2)[:, :, None]  # (B, n - 1, W, 2W)
        seen = (seen & same).flatten(0, 1)[:, None]
    rest = F.scaled_dot_product_attention(
        blocks(q)[:, 1:].flatten(0, 1),
        pairs(blocks(k), 3).flatten(0, 1),
        pairs(blocks(v), 3).flatten(0, 1),
        attn_mask=seen,
    )
    rest = rest.unflatten(0, (-1, n_blocks - 1)).transpose(1, 2).flatten(2, 3)
    return torch.cat((first, rest[:, :, : length - window]), dim=2)


class SlidingAttention(Attention):
    """Attention that sees `window` positions, its own included."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.window = spec.window

    def attend(self, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
        return sliding_attention(q, k, v, self.window, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> KeyValueCache:
        return super().make_cache(batch_size, min(self.window, max_len), like)
