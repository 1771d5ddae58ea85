"""State-space duality for CPUs, where memory traffic costs as much as the matrix products.

The decay between two positions is factorized into one factor per position, so all heads share one matrix per chunk and
need none of their own. This is exact as long as the factors are in the range of fp32; otherwise `ssd.chunked_ssd` is
used.

B, T: batch, position; c, Q: chunks, chunk size; H, P: heads, head_dim; N: d_state.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.model.blocks.base import pad_to_chunks

FACTORIZED_CHUNK = 32
MAX_EXPONENT = 40.0
"""Factors are between exp(-40) and exp(40) = 2e17, and the factor from one chunk's middle to the next is at least
exp(-80): fp32 overflows at exp(88) and loses digits below exp(-87)."""


def factorized_ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    steps: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Compute `chunked_ssd` for one document, or return None if factors would leave the range.

    With L the cumulative sum of dt A from the start of a chunk and m its value in the middle, exp(L_i - L_j) is
    exp(L_i - m) times exp(m - L_j): the first factor scales the output, the second the input.
    """
    batch, length, heads, width = x.shape
    x, dt, b, c = pad_to_chunks(chunk, x, dt, b, c)  # dt = 0 decays nothing and adds nothing: the state is unchanged
    steps = dt * a if steps is None else pad_to_chunks(chunk, steps)[0]
    n_chunks = x.shape[1] // chunk
    dt = dt.view(batch, n_chunks, chunk, heads)
    sums = steps.view_as(dt).cumsum(2)  # (B, c, Q, H), <= 0
    middle, last = sums[:, :, chunk // 2], sums[:, :, -1]  # (B, c, H)
    log_out = sums - middle[:, :, None]
    # `log_out` is between -middle and last - middle; the factor between chunks has both, including the first step.
    if not bool(torch.maximum(-middle, middle - last).detach().max() <= MAX_EXPONENT):
        return None
    through = (last - middle).exp()
    y, end = FactorizedSSD.apply(
        x.reshape(batch, n_chunks, chunk, heads, width),
        (-log_out).exp() * dt,
        log_out,
        (last - middle)[:, :-1] + middle[:, 1:],
        b.reshape(batch * n_chunks, chunk, -1),
        c.reshape(batch * n_chunks, chunk, -1),
        None if state is None else state * middle[:, 0].exp()[:, None, :, None],
    )
    return y.reshape(batch, -1, heads, width)[:, :length], end * through[:, -1, None, :, None]


class FactorizedSSD(torch.autograd.Function):
    """y = exp(log_out) (tril(C B^T) (in_scale x) + C S), where S is the state at the start of a chunk:

        S_0 = start        S_{i+1} = exp(log_carry_i) (S_i + B_i^T (in_scale_i x_i))

    Of the large tensors only x, y and the states are saved; the backward pass recomputes the others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        in_scale: Tensor,
        log_out: Tensor,
        log_carry: Tensor,
        b: Tensor,
        c: Tensor,
        start: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Map x (B, c, Q, H, P); in_scale, log_out (B, c, Q, H); log_carry (B, c - 1, H); b, c (B c, Q, N).

        start: (B, N, H, P). Returns y like x, and S after the last chunk without its decay.
        """
        batch, n_chunks, _, heads, width = x.shape
        inputs, products = _scale_heads(x, in_scale), torch.bmm(c, b.mT).tril_()
        added = torch.bmm(b.mT, inputs).view(batch, n_chunks, -1, heads, width)
        states, carry = torch.empty_like(added), log_carry.exp()[:, :, None, :, None]
        states[:, 0] = 0 if start is None else start
        each = states.unbind(1)
        for current, update, factor, following in zip(each, added.unbind(1), carry.unbind(1), each[1:], strict=False):
            torch.add(current, update, out=following).mul_(factor)
        y = (
            torch.bmm(c, _flatten_states(states))
            .baddbmm_(products, inputs)
            .view(x.shape)
            .mul_(log_out.exp()[..., None])
        )
        ctx.save_for_backward(x, in_scale, log_out, log_carry, b, c, states, y)
        ctx.has_start = start is not None
        return y, states[:, -1] + added[:, -1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, d_end = gradients
        x, in_scale, log_out, log_carry, b, c, states, y = ctx.saved_tensors
        d_log_out = (dy * y).sum(-1)
        dy, inputs, products = _scale_heads(dy, log_out.exp()), _scale_heads(x, in_scale), torch.bmm(c, b.mT).tril_()
        d_products = torch.bmm(dy, inputs.mT).tril_()
        dc = torch.bmm(dy, _flatten_states(states).mT).baddbmm_(d_products, b)

        d_states = torch.bmm(c.mT, dy).view_as(states)
        d_states[:, -1] += d_end
        d_added, carry = torch.empty_like(states), log_carry.exp()[:, :, None, :, None]
        d_added[:, -1] = d_end
        each = d_states.unbind(1)
        chunks = zip(each, each[1:], d_added.unbind(1), carry.unbind(1), strict=False)
        for d_current, d_following, d_update, factor in reversed(list(chunks)):
            d_current.add_(torch.mul(d_following, factor, out=d_update))
        d_log_carry = d_states[:, 1:].mul_(states[:, 1:]).sum((2, 4))  # in place: only d_states[:, 0] is read below

        db = torch.bmm(inputs, _flatten_states(d_added).mT).baddbmm_(d_products.mT, c)
        dx = torch.bmm(products.mT, dy).baddbmm_(b, _flatten_states(d_added)).view(x.shape)
        d_in_scale = (dx * x).sum(-1)
        d_start = d_states[:, 0] if ctx.has_start else None
        return dx.mul_(in_scale[..., None]), d_in_scale, d_log_out, d_log_carry, db, dc, d_start


def _scale_heads(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each head of x (B, c, Q, H, P) by its factor (B, c, Q, H), into (B c, Q, H P)."""
    return (x * factors[..., None]).flatten(-2).flatten(0, 1)


def _flatten_states(states: Tensor) -> Tensor:
    """View states (B, c, N, H, P) as (B c, N, H P)."""
    return states.flatten(-2).flatten(0, 1)
