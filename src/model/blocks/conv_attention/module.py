"""Causal attention with a short convolution over queries, keys and values: a control, not an architecture of its own.

Mamba and gated DeltaNet convolve each channel over the last few positions before they mix positions, which alone is a
model of short n-grams. Attention with the same convolution (kernel K = d_conv, as in H3 and Based, arXiv 2402.18668)
measures how much of their advantage is due to the convolution and how much to the recurrence.

B, T: batch, position; K: d_conv; C: channels of queries, keys and values together.
"""

import torch
from torch import Tensor, nn

from src.config.schema import ModelSpec
from src.model.blocks.attention.module import Attention, KeyValueCache
from src.model.blocks.convolution import convolve


class ConvAttentionCache(KeyValueCache):
    """Keys and values, and the last K - 1 projections (B, K - 1, C) as input of the convolution."""

    def __init__(self, batch_size: int, heads: int, capacity: int, width: int, conv: Tensor) -> None:
        super().__init__(batch_size, heads, capacity, width, conv)
        self.conv = conv


class ConvAttention(Attention):
    """Attention over convolved queries, keys and values."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.d_conv = spec.d_conv
        self.conv_weight = nn.Parameter(torch.empty(sum(self.widths), spec.d_conv))

    def project(self, x: Tensor, cache: ConvAttentionCache | None, documents: Tensor | None) -> Tensor:
        return convolve(self.qkv(x), self.conv_weight, None, cache, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> ConvAttentionCache:
        conv = like.new_zeros(batch_size, self.d_conv - 1, sum(self.widths))
        return ConvAttentionCache(batch_size, self.n_kv_heads, max_len, self.head_dim, conv)

    def init_weights(self, residual_scale: float) -> None:
        super().init_weights(residual_scale)
        bound = self.d_conv**-0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
