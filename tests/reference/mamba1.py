"""Reference implementation of `selective_scan` and `Mamba1`: Mamba-1 step by step in float64."""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.blocks.mamba1.module import Mamba1


def sequential_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None = None, *, is_signed: bool = False
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t, and return all y and the last h.

    x, dt: (B, T, D_inner); a: (D_inner, N); b, c: (B, T, N); state: (B, D_inner, N), zeros if None. is_signed: with
    2 exp(dt_t A) - 1 in the place of exp(dt_t A).
    """
    x, dt, a, b, c = (part.double() for part in (x, dt, a, b, c))
    batch, length, inner = x.shape
    h = x.new_zeros(batch, inner, a.shape[1]) if state is None else state.double()
    outputs = []
    for t in range(length):
        decay = torch.exp(torch.einsum("bd,dn->bdn", dt[:, t], a))
        decay = 2 * decay - 1 if is_signed else decay
        h = decay * h + torch.einsum("bd,bn,bd->bdn", dt[:, t], b[:, t], x[:, t])
        outputs.append(torch.einsum("bn,bdn->bd", c[:, t], h))
    return torch.stack(outputs, dim=1), h


def reference_mamba1(block: Mamba1, x: Tensor) -> Tensor:
    """Map x (B, T, D) to (B, T, D): project, convolve, project again, scan, add D x, gate, project."""
    weights = {name: parameter.double() for name, parameter in block.named_parameters()}
    rank, state = weights["dt_proj.weight"].shape[1], weights["A_log"].shape[1]
    conv_in, z = (x.double() @ weights["in_proj.weight"].T).tensor_split(2, dim=-1)
    length, lags = x.shape[1], weights["conv_weight"].shape[1]
    rows = []
    for t in range(length):
        row = weights["conv_bias"].expand(x.shape[0], -1)
        for lag in range(min(lags, t + 1)):
            row = row + weights["conv_weight"][:, lags - 1 - lag] * conv_in[:, t - lag]
        rows.append(F.silu(row))
    hidden = torch.stack(rows, dim=1)
    dt, b, c = (hidden @ weights["x_proj.weight"].T).split((rank, state, state), dim=-1)
    dt = F.softplus(dt @ weights["dt_proj.weight"].T + weights["dt_bias"])
    y, _ = sequential_scan(hidden, dt, -weights["A_log"].exp(), b, c)
    y = (y + weights["D"] * hidden) * F.silu(z)
    return y @ weights["out_proj.weight"].T
