"""Causal attention within a sliding window (Longformer; Mistral).

It is computed in blocks, so that on any device the cost grows with T * W and not with T * T.

B, T: batch, position; H: heads; P: head_dim; W: window; n: blocks of W.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.attention.flex import flex_causal_attention
from src.model.blocks.attention.module import Attention, KeyValueCache, causal_attention


def sliding_attention(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
    """Attend from each position to itself and the previous window - 1; shapes as above.

    Queries are split into blocks of W. The first block is plain causal attention; every later one attends to its own
    keys and those of the previous block under the same band mask. Blocks are in the batch dimension, so heads share a
    mask.
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

    def pairs(blocks: Tensor, dim: int) -> Tensor:  # each block but the first, preceded by the previous one
        return torch.cat((blocks[:, :-1], blocks[:, 1:]), dim)

    query = torch.arange(window, device=q.device)[:, None] + window
    key = torch.arange(2 * window, device=q.device)
    visible = (key <= query) & (key > query - window)
    if documents is not None:
        ids = F.pad(documents, (0, padding)).unflatten(1, (n_blocks, window))
        same = ids[:, 1:, :, None] == pairs(ids, 2)[:, :, None]  # (B, n - 1, W, 2W)
        visible = (visible & same).flatten(0, 1)[:, None]
    rest = F.scaled_dot_product_attention(
        blocks(q)[:, 1:].flatten(0, 1),
        pairs(blocks(k), 3).flatten(0, 1),
        pairs(blocks(v), 3).flatten(0, 1),
        attn_mask=visible,
    )
    rest = rest.unflatten(0, (-1, n_blocks - 1)).transpose(1, 2).flatten(2, 3)
    return torch.cat((first, rest[:, :, : length - window]), dim=2)


class SlidingAttention(Attention):
    """Attention to the last `window` positions, including its own."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.window = spec.window

    def attend(self, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
        if self.uses_flex:
            return flex_causal_attention(q, k, v, self.window, documents)
        return sliding_attention(q, k, v, self.window, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> KeyValueCache:
        return super().make_cache(batch_size, min(self.window, max_len), like)
