"""Reference implementation of attention with the whole T x T matrix, and of rotary positions as complex numbers."""

import math
from typing import Any

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


def scaled_frequency(
    frequency: float, kind: str, factor: float, low: float, high: float, original_seq_len: int
) -> float:
    """Scale one frequency by its wavelength, as Llama 3.1's own code does (`llama3`), or as it is (`linear`)."""
    wavelength = 2 * math.pi / frequency
    if kind == "linear" or wavelength > original_seq_len / low:
        return frequency / factor
    if wavelength < original_seq_len / high:
        return frequency
    smooth = (original_seq_len / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def complex_rope(x: Tensor, offset: int, theta: float = 10000.0, scaling: tuple[Any, ...] = ()) -> Tensor:
    """Multiply x_i + j x_{i + P/2} of x (B, H, T, P) by exp(j position theta^(-2i/P)), in complex128.

    scaling: further arguments of `scaled_frequency`.
    """
    width = x.shape[-1]
    frequencies = [theta ** (-2 * i / width) for i in range(width // 2)]
    if scaling:
        frequencies = [scaled_frequency(frequency, *scaling) for frequency in frequencies]
    frequency = torch.tensor(frequencies, dtype=torch.float64)
    position = torch.arange(offset, offset + x.shape[2], dtype=torch.float64)
    angle = position[:, None] * frequency
    rotation = torch.polar(torch.ones_like(angle), angle)
    rotated = torch.complex(x[..., : width // 2].double(), x[..., width // 2 :].double()) * rotation
    return torch.cat((rotated.real, rotated.imag), dim=-1)


def reference_attention(
    x: Tensor, qkv: Tensor, out: Tensor, heads: int, window: int | None, rope: bool, kv_heads: int | None = None
) -> Tensor:
    """Run an attention block without biases on x (B, T, D), head by head, in float64.

    qkv: rows of all heads of queries, then of `kv_heads` heads of keys (None: as many), then of values; out (D, H P).
    """
    x, qkv, out = x.double(), qkv.double(), out.double()
    width, kv_heads = out.shape[1] // heads, kv_heads or heads
    w_q, w_k, w_v = qkv.split((heads * width, kv_heads * width, kv_heads * width), dim=0)
    results = []
    for head in range(heads):
        shared = head * kv_heads // heads
        rows, shared_rows = (slice(number * width, (number + 1) * width) for number in (head, shared))
        q, k, v = ((x @ weight.T)[:, None] for weight in (w_q[rows], w_k[shared_rows], w_v[shared_rows]))
        if rope:
            q, k = complex_rope(q, 0), complex_rope(k, 0)
        results.append(masked_attention(q, k, v, window)[:, 0])
    return torch.cat(results, dim=-1) @ out.T
