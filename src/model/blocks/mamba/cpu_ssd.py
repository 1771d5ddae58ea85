"""The form of state-space duality for a CPU, where moving memory costs as much as the products.

The decay between two positions is taken as a product of two factors, one a position, so that all heads share one
matrix a chunk and have none of their own. That is exact as long as the factors stay within what fp32 can hold; where
they would not, the general form (`ssd.chunked_ssd`) serves.

B, T: batch, position; c, Q: chunks, chunk size; H, P: heads, head_dim; N: d_state.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FACTORIZED_CHUNK = 32
LARGEST_EXPONENT = 40.0
"""Factors are within exp(40) = 2e17 and its inverse, and what carries a state from one middle to the next is no smaller
than exp(-80): fp32 ends at exp(88), and loses digits below exp(-87)."""


def factorized_ssd(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int, state: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Do what `chunked_ssd` does for one document, unless factors would leave the range: then None.

    With L the sum of dt A from the start of a chunk, and m its value in the middle, exp(L_i - L_j) is exp(L_i - m)
    times exp(m - L_j): the first scales what comes out, the second what goes in.
    """
    batch, length, heads, width = x.shape
    if padding := -length % chunk:  # dt = 0 decays nothing and adds nothing, so padding leaves the state alone
        x, dt = F.pad(x, (0, 0, 0, 0, 0, padding)), F.pad(dt, (0, 0, 0, padding))
        b, c = F.pad(b, (0, 0, 0, padding)), F.pad(c, (0, 0, 0, padding))
    n_chunks = (length + padding) // chunk
    dt = dt.view(batch, n_chunks, chunk, heads)
    sums = (dt * a).cumsum(2)  # (B, c, Q, H), <= 0
    middle, last = sums[:, :, chunk // 2], sums[:, :, -1]  # (B, c, H)
    log_out = sums - middle[:, :, None]
    # `log_out` runs from below -middle to last - middle; what carries a state on has both, the first step included.
    if not bool(torch.maximum(-middle, middle - last).detach().max() <= LARGEST_EXPONENT):
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
    """y = exp(log_out) (tril(C B^T) (in_scale x) + C S), where S, the state that a chunk starts from, follows

        S_0 = start        S_{i+1} = exp(log_carry_i) (S_i + B_i^T (in_scale_i x_i))

    Of what is large only x, y and the states are kept; the rest is computed again in the backward pass.
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
        """Take x (B, c, Q, H, P); in_scale, log_out (B, c, Q, H); log_carry (B, c - 1, H); b, c (B c, Q, N).

        start: (B, N, H, P). Returns y like x, and what S would be after the last chunk without its carry.
        """
        batch, n_chunks, _, heads, width = x.shape
        inputs, products = _scale(x, in_scale), torch.bmm(c, b.mT).tril_()
        added = torch.bmm(b.mT, inputs).view(batch, n_chunks, -1, heads, width)
        states, carry = torch.empty_like(added), log_carry.exp()[:, :, None, :, None]
        states[:, 0] = 0 if start is None else start
        each = states.unbind(1)
        for here, more, factor, then in zip(each, added.unbind(1), carry.unbind(1), each[1:], strict=False):
            torch.add(here, more, out=then).mul_(factor)
        y = torch.bmm(c, _flat(states)).baddbmm_(products, inputs).view(x.shape).mul_(log_out.exp()[..., None])
        ctx.save_for_backward(x, in_scale, log_out, log_carry, b, c, states, y)
        ctx.has_start = start is not None
        return y, states[:, -1] + added[:, -1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, d_end = gradients
        x, in_scale, log_out, log_carry, b, c, states, y = ctx.saved_tensors
        d_log_out = (dy * y).sum(-1)
        dy, inputs, products = _scale(dy, log_out.exp()), _scale(x, in_scale), torch.bmm(c, b.mT).tril_()
        d_products = torch.bmm(dy, inputs.mT).tril_()
        dc = torch.bmm(dy, _flat(states).mT).baddbmm_(d_products, b)

        d_states = torch.bmm(c.mT, dy).view_as(states)
        d_states[:, -1] += d_end
        d_added, carry = torch.empty_like(states), log_carry.exp()[:, :, None, :, None]
        d_added[:, -1] = d_end
        each = d_states.unbind(1)
        chunks = zip(each, each[1:], d_added.unbind(1), carry.unbind(1), strict=False)
        for d_here, d_then, d_more, factor in reversed(list(chunks)):
            d_here.add_(torch.mul(d_then, factor, out=d_more))
        d_log_carry = d_states[:, 1:].mul_(states[:, 1:]).sum((2, 4))  # all but the first have served

        db = torch.bmm(inputs, _flat(d_added).mT).baddbmm_(d_products.mT, c)
        dx = torch.bmm(products.mT, dy).baddbmm_(b, _flat(d_added)).view(x.shape)
        d_in_scale = (dx * x).sum(-1)
        d_start = d_states[:, 0] if ctx.has_start else None
        return dx.mul_(in_scale[..., None]), d_in_scale, d_log_out, d_log_carry, db, dc, d_start


def _scale(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each head of x (B, c, Q, H, P) by its factor (B, c, Q, H), into (B c, Q, H P)."""
    return (x * factors[..., None]).flatten(-2).flatten(0, 1)


def _flat(states: Tensor) -> Tensor:
    """View states (B, c, N, H, P) as (B c, N, H P)."""
    return states.flatten(-2).flatten(0, 1)
