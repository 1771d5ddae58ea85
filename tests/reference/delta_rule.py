"""Reference implementation of `chunked_delta_rule`: the gated delta rule step by step, in float64."""

import torch
from torch import Tensor


def sequential_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, o_t = S_t^T q_t, and return all o and the last S.

    q, k: (B, T, H, N); v: (B, T, H, P); log_decay, beta: (B, T, H); state: (B, H, N, P), zeros if None.
    """
    q, k, v, log_decay, beta = (part.double() for part in (q, k, v, log_decay, beta))
    s = q.new_zeros(*q[:, 0].shape, v.shape[-1]) if state is None else state.double()
    outputs = []
    for t in range(q.shape[1]):
        erase = torch.eye(q.shape[-1]).double() - beta[:, t, :, None, None] * k[:, t, :, :, None] * k[:, t, :, None]
        s = log_decay[:, t, :, None, None].exp() * erase @ s
        s = s + beta[:, t, :, None, None] * k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(torch.einsum("bhnp,bhn->bhp", s, q[:, t]))
    return torch.stack(outputs, dim=1), s
