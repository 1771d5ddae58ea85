"""Causal attention over all previous positions.

Rotary positions (Su et al., 2021) in Llama's half-split layout, or none if the recipe adds learned positions to the
embedding. Under autocast q, k and v are bf16, and the softmax inside the kernels is fp32.

With document ids, a position attends only to its own document. Rotary positions encode distances, so they need no
reset.

B, T, D: batch, position, d_model; H: heads; P: head_dim.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.attention.flex import flex_causal_attention
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear
from src.model.blocks.linear import Linear
from src.runtime.device import needs_causal_mask

ROPE_THETA = 10000.0
"""The default of `recipe.rope_theta`."""


def apply_rope(x: Tensor, offset: int, theta: float = ROPE_THETA) -> Tensor:
    """Rotate each pair (x_i, x_{i + P/2}) of x (..., T, P) by its position times theta^(-2i/P), in fp32.

    A compiler fuses the two halves into one loop. In eager mode, fewer operations on whole rows give the same numbers.
    """
    key = offset, x.shape[-2], x.shape[-1], x.device, theta
    y = x.float()
    first, second = y.chunk(2, dim=-1)
    if torch.compiler.is_compiling():
        cos, sin = rope_cos_sin(*key)
        rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    else:
        cos, sin = _cached_cos_sin(*key, torch.is_inference_mode_enabled())
        rotated = y * cos + torch.cat((second, first), dim=-1) * sin
    return rotated.to(x.dtype)


def rope_cos_sin(
    offset: int, length: int, width: int, device: torch.device, theta: float = ROPE_THETA
) -> tuple[Tensor, Tensor]:
    """Compute cosine and sine (T, P/2) of the rotation angles."""
    half = width // 2
    frequency = theta ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    position = torch.arange(offset, offset + length, device=device, dtype=torch.float32)
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


@lru_cache(maxsize=2)
def _cached_cos_sin(
    offset: int, length: int, width: int, device: torch.device, theta: float, inference: bool
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (T, P), once for all layers, from a table that covers many tokens of a text."""
    end = 1 << (offset + length - 1).bit_length()
    cos, sin = _cos_sin_table(end, width, device, theta, inference)
    return cos[offset : offset + length], sin[offset : offset + length]


@lru_cache(maxsize=2)
def _cos_sin_table(
    length: int, width: int, device: torch.device, theta: float, inference: bool
) -> tuple[Tensor, Tensor]:
    """Compute both for the first positions (T, P), each half repeated; the sine of the first half is negated.

    inference: whether inference mode is on; tensors created in that mode cannot be used in training.
    """
    cos, sin = rope_cos_sin(0, length, width, device, theta)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


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
        """Store k and v (B, H, T, P); in a full buffer they replace the oldest."""
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
        """Return the filled slots (B, H, min(offset, capacity), P); rotated keys may be in any order."""
        filled = min(self.offset, self.capacity)
        return self.keys[:, :, :filled], self.values[:, :, :filled]


class Attention(Block):
    """Multi-head causal attention."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_heads, self.head_dim = spec.n_heads, spec.head_dim
        self.rope, self.rope_theta = spec.position == "rope", spec.rope_theta
        self.qkv = Linear(spec.d_model, 3 * spec.d_model, bias=spec.bias)
        self.out = Linear(spec.d_model, spec.d_model, bias=spec.bias)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, documents: Tensor | None = None) -> BlockOutput:
        batch, length, width = x.shape
        qkv = self.project(x, cache, documents)
        # A single split, since the gradient of a slice is padded with zeros.
        qk, v = qkv.split((2 * width, width), dim=-1)
        qk = self.normalize(qk.unflatten(-1, (2, self.n_heads, self.head_dim)))
        qk = qk.permute(2, 0, 3, 1, 4)  # (2, B, H, T, P)
        v = v.unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)  # (B, H, T, P)
        offset = cache.offset if cache else 0
        q, k = (apply_rope(qk, offset, self.rope_theta) if self.rope else qk).unbind(0)
        if cache is not None:
            assert offset == 0 or length == 1, "after the prefill, tokens are appended to a cache one at a time"
            cache.append(k, v)
        if cache is not None and offset > 0:
            keys, values = cache.stored()
            y = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype))
        else:
            y = self.attend(q, k, v, documents)
        return BlockOutput(self.out(y.transpose(1, 2).reshape(batch, length, width)))

    def project(self, x: Tensor, cache: Any, documents: Tensor | None) -> Tensor:
        """Map x (B, T, D) to concatenated queries, keys and values (B, T, 3 D)."""
        return self.qkv(x)

    def normalize(self, qk: Tensor) -> Tensor:
        """Normalize queries and keys (B, T, 2, H, P) per head; the identity in plain attention."""
        return qk

    def attend(self, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
        """Attend within one sequence from its start; q, k, v and result (B, H, T, P), documents (B, T)."""
        if self.uses_flex and documents is not None:  # without documents, SDPA has a faster kernel
            return flex_causal_attention(q, k, v, None, documents)
        return causal_attention(q, k, v, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> KeyValueCache:
        return KeyValueCache(batch_size, self.n_heads, max_len, self.head_dim, like)

    def packed_projections(self) -> dict[str, tuple[int, ...]]:
        return {"qkv.weight": (self.qkv.in_features,) * 3}

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.qkv)
        init_linear(self.out, INIT_STD * residual_scale)
