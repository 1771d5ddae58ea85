"""Reference implementation of `chunked_ssd`: the state-space recurrence step by step in float64."""

import torch
from torch import Tensor


def sequential_ssd(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None = None, *, is_signed: bool = False
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t, and return all y and the last h.

    x: (B, T, H, P); dt: (B, T, H); a: (H,); b, c: (B, T, N); state: (B, N, H, P), zeros if None. is_signed: with
    2 exp(dt_t A) - 1 in the place of exp(dt_t A).
    """
    x, dt, a, b, c = (part.double() for part in (x, dt, a, b, c))
    batch, length, heads, width = x.shape
    h = x.new_zeros(batch, b.shape[-1], heads, width) if state is None else state.double()
    outputs = []
    for t in range(length):
        decay = torch.exp(dt[:, t] * a)  # (B, H)
        decay = 2 * decay - 1 if is_signed else decay
        added = torch.einsum("bn,bh,bhp->bnhp", b[:, t], dt[:, t], x[:, t])
        h = decay[:, None, :, None] * h + added
        outputs.append(torch.einsum("bn,bnhp->bhp", c[:, t], h))
    return torch.stack(outputs, dim=1), h
