"""Matrix products of few rows, as in decoding, as this make of CPU does them best.

With few rows the time goes into reading the weight, and MKL does that badly in two places (torch 2.13, two cores).
On CPUs that are not Intel's, one thread reads all of it: as a batch of products with parts of the weight, each thread
reads a part, 1.6 to 2.2 times as fast for 1 to 8 rows, 1.3 for 32, 1.1 for 64. On Intel's, threads share it, but for 7
to 48 rows it is slow: with the weight for the left factor 1.2 to 1.7 times as fast. Other makes of BLAS are not
measured, and left alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.blocks.base import on_cpu
from src.runtime.host import is_intel

FEW_ROWS = 32
LEAST_WEIGHT = 1 << 17
"""Numbers in a matrix that is worth dividing: threads have to be woken."""
ROWS_ON_THE_RIGHT = range(7, 49)
LEAST_LEFT_WEIGHT = 1 << 20
"""Numbers in a matrix from which on it pays to turn the product round afterwards."""
HAS_MKL = torch.backends.mkl.is_available()
INTEL = is_intel()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Do what `F.linear` does for x (..., in), weight (out, in), bias (out,)."""
    least, some = (LEAST_LEFT_WEIGHT, ROWS_ON_THE_RIGHT) if INTEL else (LEAST_WEIGHT, range(1, FEW_ROWS + 1))
    if weight.numel() < least or torch.is_grad_enabled() or not HAS_MKL or not on_cpu(x):
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    if rows not in some or x.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if INTEL:
        y = _weight_first(x.reshape(rows, -1), weight)
    else:
        parts = next(n for n in range(torch.get_num_threads(), 0, -1) if weight.shape[0] % n == 0)
        if parts == 1:
            return F.linear(x, weight, bias)
        y = _by_parts(x.reshape(rows, -1), weight, parts)
    y = y.reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _by_parts(x: Tensor, weight: Tensor, parts: int) -> Tensor:
    """Multiply x (rows, in) by parts of weight (out, in), as many as divide it, side by side: (rows, out)."""
    y = torch.bmm(x.expand(parts, -1, -1), weight.view(parts, -1, weight.shape[1]).mT)  # (parts, rows, out / parts)
    return y.transpose(0, 1).flatten(1)


def _weight_first(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply weight (out, in) by x (rows, in) turned round, and turn the product back: (rows, out)."""
    return (weight @ x.mT).mT.contiguous()


class Linear(nn.Linear):
    """A linear layer that computes by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
