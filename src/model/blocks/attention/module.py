"""Causal attention over all previous positions.

Rotary positions (`rope.py`), or none if the recipe adds learned positions to the embedding. Under autocast q, k and v
are bf16, and the softmax inside the kernels is fp32.

With fewer heads of keys and values than of queries, each serves several consecutive heads of queries (grouped-query
attention: Ainslie et al., 2023, arXiv 2305.13245). Whole sequences repeat them for the kernel; the cache does not.

With document ids, a position attends only to its own document. Rotary positions encode distances, so they need no
reset.

B, T, D: batch, position, d_model; H, G: heads of queries, of keys and values; P: head_dim.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.attention.flex import flex_causal_attention
from src.model.blocks.attention.rope import apply_rope, rope_of
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear
from src.model.blocks.linear import Linear
from src.runtime.device import needs_causal_mask


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None) -> Tensor:
    """Attend from each position to itself and all previous ones; q, k, v and result (B, H, T, P), documents (B, T)."""
    if documents is not None:
        visible = (documents[:, :, None] == documents[:, None]).tril()[:, None]
    elif needs_causal_mask(q):
        visible = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    else:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)


INITIAL_CAPACITY = 4096
"""Positions that a cache holds at first, and beyond a longer prefill."""


class KeyValueCache:
    """Keys and values of the last `capacity` positions in a ring buffer: position t is in slot t mod capacity.

    Memory grows with the text: allocated at once for usual lengths, then doubled. The buffer wraps around only at its
    full capacity, so stored values never move to another slot.
    """

    def __init__(self, batch_size: int, heads: int, capacity: int, width: int, like: Tensor) -> None:
        self.keys = like.new_zeros(batch_size, heads, min(capacity, INITIAL_CAPACITY), width)
        self.values = torch.zeros_like(self.keys)
        self.capacity = capacity
        self.offset = 0

    def append(self, k: Tensor, v: Tensor) -> None:
        """Store k and v (B, G, T, P); in a full buffer they replace the oldest."""
        end = self.offset + k.shape[2]
        if self.keys.shape[2] < min(end, self.capacity):
            self._grow(end)
        if k.shape[2] == 1:
            slot = self.offset % self.capacity
            self.keys[:, :, slot] = k[:, :, 0]
            self.values[:, :, slot] = v[:, :, 0]
            self.offset = end
            return
        kept = min(k.shape[2], self.capacity)
        slots = torch.arange(end - kept, end, device=k.device) % self.capacity
        self.keys.index_copy_(2, slots, k[:, :, -kept:].to(self.keys.dtype))
        self.values.index_copy_(2, slots, v[:, :, -kept:].to(self.values.dtype))
        self.offset = end

    def _grow(self, needed: int) -> None:
        """Allocate space for `needed` positions and for those that a long text is likely to need next."""
        size = min(self.capacity, max(needed + INITIAL_CAPACITY, 2 * self.keys.shape[2]))
        keys = self.keys.new_zeros(*self.keys.shape[:2], size, self.keys.shape[3])
        values = torch.zeros_like(keys)
        keys[:, :, : self.keys.shape[2]] = self.keys
        values[:, :, : self.values.shape[2]] = self.values
        self.keys, self.values = keys, values

    def stored(self) -> tuple[Tensor, Tensor]:
        """Return the filled slots (B, G, min(offset, capacity), P); rotated keys may be in any order."""
        filled = min(self.offset, self.capacity)
        return self.keys[:, :, :filled], self.values[:, :, :filled]


class Attention(Block):
    """Multi-head causal attention."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = spec.n_heads, spec.n_kv_heads, spec.head_dim
        self.widths = spec.attention_width, spec.kv_width, spec.kv_width
        self.rope = rope_of(spec) if spec.position == "rope" else None
        self.qkv = Linear(spec.d_model, sum(self.widths), bias=spec.bias or spec.qkv_bias)
        self.out = Linear(spec.attention_width, spec.d_model, bias=spec.bias)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, documents: Tensor | None = None) -> BlockOutput:
        batch, length, _ = x.shape
        qkv = self.project(x, cache, documents)
        # A single split, since the gradient of a slice is padded with zeros.
        qk, v = qkv.split((self.widths[0] + self.widths[1], self.widths[2]), dim=-1)
        qk = self.normalize(qk.unflatten(-1, (-1, self.head_dim))).transpose(1, 2)  # (B, H + G, T, P)
        v = v.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, G, T, P)
        offset = cache.offset if cache else 0
        qk = apply_rope(qk, offset, self.rope) if self.rope else qk
        q, k = qk.split((self.n_heads, self.n_kv_heads), dim=1)
        if cache is not None:
            assert offset == 0 or length == 1, "after the prefill, tokens are appended to a cache one at a time"
            cache.append(k, v)
        if cache is not None and offset > 0:
            keys, values = cache.stored()
            q = q.view(batch, self.n_kv_heads, -1, self.head_dim)  # queries of a group share their keys, without a mask
            y = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype))
            y = y.reshape(batch, self.n_heads, 1, self.head_dim)
        else:
            if self.n_kv_heads < self.n_heads:
                k, v = (part.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for part in (k, v))
            y = self.attend(q, k, v, documents)
        return BlockOutput(self.out(y.transpose(1, 2).reshape(batch, length, -1)))

    def project(self, x: Tensor, cache: Any, documents: Tensor | None) -> Tensor:
        """Map x (B, T, D) to concatenated queries, keys and values (B, T, (H + 2 G) P)."""
        return self.qkv(x)

    def normalize(self, qk: Tensor) -> Tensor:
        """Normalize queries and keys (B, T, H + G, P) per head; the identity in plain attention."""
        return qk

    def attend(self, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
        """Attend within one sequence from its start; q, k, v and result (B, H, T, P), documents (B, T)."""
        if self.uses_flex and documents is not None:  # without documents, SDPA has a faster kernel
            return flex_causal_attention(q, k, v, None, documents)
        return causal_attention(q, k, v, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> KeyValueCache:
        return KeyValueCache(batch_size, self.n_kv_heads, max_len, self.head_dim, like)

    def packed_projections(self) -> dict[str, tuple[int, ...]]:
        return {"qkv.weight": self.widths}

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.qkv)
        init_linear(self.out, INIT_STD * residual_scale)
