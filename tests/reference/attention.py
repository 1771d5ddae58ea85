"""Reference implementation of attention with the whole T x T matrix, and of rotary positions as complex numbers."""

import torch
from torch import Tensor


def masked_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """Attend from position t to t - window + 1 .. t (to 0 .. t with no window); all (B, H, T, P)."""
    position = torch.arange(q.shape[2])
    distance = position[:, None] - position[None, :]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~visible, -torch.inf)
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    return weights @ v


def complex_rope(x: Tensor, offset: int, theta: float = 10000.0) -> Tensor:
    """Multiply x_i + j x_{i + P/2} of x (B, H, T, P) by exp(j position theta^(-2i/P)), in complex128."""
    width = x.shape[-1]
    frequency = torch.tensor([theta ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    position = torch.arange(offset, offset + x.shape[2], dtype=torch.float64)
    angle = position[:, None] * frequency
    rotation = torch.polar(torch.ones_like(angle), angle)
    rotated = torch.complex(x[..., : width // 2].double(), x[..., width // 2 :].double()) * rotation
    return torch.cat((rotated.real, rotated.imag), dim=-1)


def reference_attention(x: Tensor, qkv: Tensor, out: Tensor, heads: int, window: int | None, rope: bool) -> Tensor:
    """Run an attention block without biases on x (B, T, D), head by head; qkv (3D, D) and out (D, D); float64."""
    x, qkv, out = x.double(), qkv.double(), out.double()
    width = x.shape[-1] // heads
    w_q, w_k, w_v = qkv.chunk(3, dim=0)
    results = []
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        q, k, v = ((x @ weight[rows].T)[:, None] for weight in (w_q, w_k, w_v))  # (B, 1, T, P)
        if rope:
            q, k = complex_rope(q, 0), complex_rope(k, 0)
        results.append(masked_attention(q, k, v, window)[:, 0])
    return torch.cat(results, dim=-1) @ out.T
