"""Causal attention over the whole past, and over a sliding window of it.

Rotary positions (Su et al., 2021) in the half-split layout of Llama, or none where the recipe adds learned positions
to the embedding. The window (Longformer; Mistral) is computed block by block, so that its cost grows with T * W and
not with T * T on any device.

B, T, D: batch, position, d_model; H: heads; P: head_dim; W: window.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear

ROPE_THETA = 10000.0


def rotate(x: Tensor, offset: int) -> Tensor:
    """Turn each pair (x_i, x_{i + P/2}) of x (B, H, T, P) by its position times theta^(-2i/P), in fp32."""
    half = x.shape[-1] // 2
    frequency = ROPE_THETA ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    position = torch.arange(offset, offset + x.shape[-2], device=x.device, dtype=torch.float32)
    angle = position[:, None] * frequency  # (T, P/2)
    cos, sin = angle.cos(), angle.sin()
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def sliding_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attend from each position to itself and the window - 1 before it; q, k, v and the result (B, H, T, P).

    Queries are cut into blocks of W. The first block is plain causal attention; every later one sees its own keys
    and those of the block before through one and the same band.
    """
    length = q.shape[2]
    if length <= window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    first = F.scaled_dot_product_attention(q[:, :, :window], k[:, :, :window], v[:, :, :window], is_causal=True)

    n_blocks = -(-length // window)
    q, k, v = (F.pad(part, (0, 0, 0, n_blocks * window - length)) for part in (q, k, v))
    batch, heads, _, width = q.shape
    tail = q.view(batch, heads, n_blocks, window, width)[:, :, 1:]

    def pairs(part: Tensor) -> Tensor:  # (B, H, n - 1, 2W, P): each block after the first, behind the one before
        blocks = part.view(batch, heads, n_blocks, window, width)
        return torch.cat((blocks[:, :, :-1], blocks[:, :, 1:]), dim=3)

    query = torch.arange(window, device=q.device)[:, None] + window
    key = torch.arange(2 * window, device=q.device)
    band = (key <= query) & (key > query - window)
    shape = (batch, heads * (n_blocks - 1))
    rest = F.scaled_dot_product_attention(
        tail.reshape(*shape, window, width),
        pairs(k).view(*shape, 2 * window, width),
        pairs(v).view(*shape, 2 * window, width),
        attn_mask=band,
    )
    rest = rest.view(batch, heads, (n_blocks - 1) * window, width)[:, :, : length - window]
    return torch.cat((first, rest), dim=2)


class KeyValueCache:
    """Keys and values of the last `capacity` positions, in a ring: position t is in slot t mod capacity."""

    def __init__(self, batch_size: int, heads: int, capacity: int, width: int, like: Tensor) -> None:
        self.keys = like.new_zeros(batch_size, heads, capacity, width)
        self.values = torch.zeros_like(self.keys)
        self.capacity = capacity
        self.offset = 0

    def append(self, k: Tensor, v: Tensor) -> None:
        """Store k and v (B, H, T, P), the oldest giving way where the ring is full."""
        end = self.offset + k.shape[2]
        kept = min(k.shape[2], self.capacity)
        slots = torch.arange(end - kept, end, device=k.device) % self.capacity
        self.keys.index_copy_(2, slots, k[:, :, -kept:].to(self.keys.dtype))
        self.values.index_copy_(2, slots, v[:, :, -kept:].to(self.values.dtype))
        self.offset = end

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
        self.qkv = nn.Linear(spec.d_model, 3 * spec.d_model, bias=spec.bias)
        self.out = nn.Linear(spec.d_model, spec.d_model, bias=spec.bias)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> BlockOutput:
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.n_heads, self.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, T, P)
        offset = cache.offset if cache else 0
        if self.rope:
            q, k = rotate(q, offset), rotate(k, offset)
        if cache is not None:
            assert offset == 0 or length == 1, "after the prefill, a cache grows by one token at a time"
            cache.append(k, v)
        if cache is not None and offset > 0:
            keys, values = cache.stored()
            y = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype))
        else:
            y = self.attend(q, k, v)
        return BlockOutput(self.out(y.transpose(1, 2).reshape(batch, length, width)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend within one sequence from its start; all (B, H, T, P)."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> KeyValueCache:
        return KeyValueCache(batch_size, self.n_heads, max_len, self.head_dim, like)

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.qkv)
        init_linear(self.out, INIT_STD * residual_scale)


class SlidingAttention(Attention):
    """Attention that sees `window` positions, its own included."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.window = spec.window

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sliding_attention(q, k, v, self.window)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> KeyValueCache:
        return super().make_cache(batch_size, min(self.window, max_len), like)
