"""Causal attention over the whole past.

Rotary positions (Su et al., 2021) in the half-split layout of Llama, or none where the recipe adds learned positions
to the embedding. Under autocast q, k and v are bf16, and the softmax inside the kernels still fp32.

Where documents are numbered, a position sees its own alone. Rotary positions are distances and need no new start.

B, T, D: batch, position, d_model; H: heads; P: head_dim.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear
from src.model.blocks.cpu_linear import Linear

ROPE_THETA = 10000.0


def rotate(x: Tensor, offset: int) -> Tensor:
    """Turn each pair (x_i, x_{i + P/2}) of x (..., T, P) by its position times theta^(-2i/P), in fp32.

    A compiler makes one loop of it half by half. Without one, fewer operations over whole rows give the same numbers.
    """
    place = offset, x.shape[-2], x.shape[-1], x.device
    y = x.float()
    first, second = y.chunk(2, dim=-1)
    if torch.compiler.is_compiling():
        cos, sin = _turns(*place)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    else:
        cos, sin = _kept_turns(*place, torch.is_inference_mode_enabled())
        turned = y * cos + torch.cat((second, first), dim=-1) * sin
    return turned.to(x.dtype)


def _turns(offset: int, length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute cosine and sine (T, P/2) of the angles."""
    half = width // 2
    frequency = ROPE_THETA ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    position = torch.arange(offset, offset + length, device=device, dtype=torch.float32)
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


@lru_cache(maxsize=2)
def _kept_turns(offset: int, length: int, width: int, device: torch.device, inference: bool) -> tuple[Tensor, Tensor]:
    """Take them once for all layers from a table that serves many tokens of a text."""
    end = 1 << (offset + length - 1).bit_length()
    cos, sin = _table(end, width, device, inference)
    return cos[offset : offset + length], sin[offset : offset + length]


@lru_cache(maxsize=2)
def _table(length: int, width: int, device: torch.device, inference: bool) -> tuple[Tensor, Tensor]:
    """Compute them for the first positions, twice over (T, P), the first half's sine negative.

    inference: tensors that are made in that mode cannot serve training.
    """
    cos, sin = _turns(0, length, width, device)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None) -> Tensor:
    """Attend from each position to itself and all before it; q, k, v and the result (B, H, T, P), documents (B, T)."""
    if documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = (documents[:, :, None] == documents[:, None]).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])


FIRST_ROOM = 4096
"""Positions that a cache has room for at first, and beyond a prefill that is longer."""


class KeyValueCache:
    """Keys and values of the last `capacity` positions, in a ring: position t is in slot t mod capacity.

    Memory is taken as it is needed: at once for a text of usual length, else by doubling. The ring closes only when all
    of its capacity is there, so what is stored never moves to another slot.
    """

    def __init__(self, batch_size: int, heads: int, capacity: int, width: int, like: Tensor) -> None:
        self.keys = like.new_zeros(batch_size, heads, min(capacity, FIRST_ROOM), width)
        self.values = torch.zeros_like(self.keys)
        self.capacity = capacity
        self.offset = 0

    def append(self, k: Tensor, v: Tensor) -> None:
        """Store k and v (B, H, T, P), the oldest giving way where the ring is full."""
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
        """Make room for `needed` positions, and for as many again as a long text will soon need."""
        room = min(self.capacity, max(needed + FIRST_ROOM, 2 * self.keys.shape[2]))
        keys = self.keys.new_zeros(*self.keys.shape[:2], room, self.keys.shape[3])
        values = torch.zeros_like(keys)
        keys[:, :, : self.keys.shape[2]] = self.keys
        values[:, :, : self.values.shape[2]] = self.values
        self.keys, self.values = keys, values

    def stored(self) -> tuple[Tensor, Tensor]:
        """Return the filled slots (B, H, min(offset, capacity), P); once rotated, their order does not matter."""
        filled = min(self.offset, self.capacity)
        return self.keys[:, :, :filled], self.values[:, :, :filled]


class Attention(Block):
    """Multi-head causal attention."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_heads, self.head_dim = spec.n_heads, spec.head_dim
        self.rope = spec.position == "rope"
        self.qkv = Linear(spec.d_model, 3 * spec.d_model, bias=spec.bias)
        self.out = Linear(spec.d_model, spec.d_model, bias=spec.bias)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, documents: Tensor | None = None) -> BlockOutput:
        batch, length, width = x.shape
        qkv = self.project(x, cache, documents)
        qk, v = qkv.split((2 * width, width), dim=-1)  # one split: a slice has zeros for the rest as gradient
        qk = self.normalize(qk.unflatten(-1, (2, self.n_heads, self.head_dim)))
        qk = qk.permute(2, 0, 3, 1, 4)  # (2, B, H, T, P)
        v = v.unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)  # (B, H, T, P)
        offset = cache.offset if cache else 0
        q, k = (rotate(qk, offset) if self.rope else qk).unbind(0)
        if cache is not None:
            assert offset == 0 or length == 1, "after the prefill, a cache grows by one token at a time"
            cache.append(k, v)
        if cache is not None and offset > 0:
            keys, values = cache.stored()
            y = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype))
        else:
            y = self.attend(q, k, v, documents)
        return BlockOutput(self.out(y.transpose(1, 2).reshape(batch, length, width)))

    def project(self, x: Tensor, cache: Any, documents: Tensor | None) -> Tensor:
        """Map x (B, T, D) to queries, keys and values side by side (B, T, 3 D)."""
        return self.qkv(x)

    def normalize(self, qk: Tensor) -> Tensor:
        """Normalize queries and keys (B, T, 2, H, P) of each head; plain attention leaves them as they are."""
        return qk

    def attend(self, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
        """Attend within one sequence from its start; q, k, v and the result (B, H, T, P), documents (B, T)."""
        return causal_attention(q, k, v, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> KeyValueCache:
        return KeyValueCache(batch_size, self.n_heads, max_len, self.head_dim, like)

    def fused(self) -> dict[str, tuple[int, ...]]:
        return {"qkv.weight": (self.qkv.in_features,) * 3}

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.qkv)
        init_linear(self.out, INIT_STD * residual_scale)
