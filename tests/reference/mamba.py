"""Reference implementation of `Mamba.forward` without a cache: the Mamba-2 block from its equations in float64."""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.blocks.mamba.module import Mamba
from src.model.blocks.norm import EPS
from tests.reference.ssd import sequential_ssd


def reference_mamba(block: Mamba, x: Tensor) -> Tensor:
    """Map x (B, T, D) to (B, T, D): project, convolve, scan, add D x, gate, normalize, project."""
    inner, state, heads = block.d_inner, block.d_state, block.n_heads
    projected = x.double() @ block.in_proj.weight.double().T
    z, conv_in, dt = projected.split((inner, inner + 2 * state, heads), dim=-1)
    convolved = torch.stack([_convolve_at(block, conv_in, t) for t in range(x.shape[1])], dim=1)
    hidden, b, c = F.silu(convolved).split((inner, state, state), dim=-1)
    hidden = hidden.unflatten(-1, (heads, block.head_dim))
    dt = F.softplus(dt + block.dt_bias.double())
    y, _ = sequential_ssd(hidden, dt, -block.A_log.double().exp(), b, c)
    y = (y + block.D.double()[:, None] * hidden).flatten(-2)
    y = y * F.silu(z)
    y = y / (y.square().mean(dim=-1, keepdim=True) + EPS).sqrt() * block.norm_weight.double()
    return y @ block.out_proj.weight.double().T


def _convolve_at(block: Mamba, x: Tensor, t: int) -> Tensor:
    """Sum weight[K - 1 - lag] x[t - lag] over the lags 0..K-1 that lie within the sequence: (B, C)."""
    total = block.conv_bias.double().expand(x.shape[0], -1)
    for lag in range(min(block.d_conv, t + 1)):
        total = total + block.conv_weight.double()[:, block.d_conv - 1 - lag] * x[:, t - lag]
    return total
