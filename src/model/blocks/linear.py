"""The matrix products of the blocks: with weights in bf16, and of few rows, as in decoding, on CPUs that use MKL.

With few rows, reading the weight dominates, and MKL is slow in two cases (torch 2.13, two cores). On CPUs of other
makers than Intel, one thread reads the whole weight: a batched product over parts of the weight, one part a thread, is
1.6 to 2.2 times as fast for 1 to 8 rows, 1.3 for 32, 1.1 for 64. On Intel CPUs the threads share the weight, but 7 to
48 rows are slow: with the weight as the left factor 1.2 to 1.7 times as fast. Other BLAS libraries were not measured
and are not changed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from src.model.blocks.base import should_use_cpu_kernel
from src.runtime.host import is_intel

MAX_ROWS = 32
MIN_WEIGHT_SIZE = 1 << 17
"""Elements from which splitting a weight is faster, despite the cost of starting threads."""
INTEL_ROWS = range(7, 49)
MIN_INTEL_WEIGHT_SIZE = 1 << 20
"""Elements from which the product with the weight on the left is faster, despite the transposition of its result."""
HAS_MKL = torch.backends.mkl.is_available()
IS_INTEL = is_intel()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute the same as `F.linear` for x (..., in), weight (out, in), bias (out,); the weight may be bf16."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        if torch.is_grad_enabled():
            y = CastLinear.apply(x, weight)
            return y if bias is None else y + bias
        weight = weight.to(x.dtype)
    least, some = (MIN_INTEL_WEIGHT_SIZE, INTEL_ROWS) if IS_INTEL else (MIN_WEIGHT_SIZE, range(1, MAX_ROWS + 1))
    if weight.numel() < least or torch.is_grad_enabled() or not HAS_MKL or not should_use_cpu_kernel(x):
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    if rows not in some or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if IS_INTEL:
        y = _multiply_weight_first(x.reshape(rows, -1), weight)
    else:
        parts = next(n for n in range(torch.get_num_threads(), 0, -1) if weight.shape[0] % n == 0)
        if parts == 1:
            return F.linear(x, weight, bias)
        y = _multiply_by_parts(x.reshape(rows, -1), weight, parts)
    y = y.reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _multiply_by_parts(x: Tensor, weight: Tensor, parts: int) -> Tensor:
    """Multiply x (rows, in) with `parts` equal parts of weight (out, in) in one batch: (rows, out)."""
    y = torch.bmm(x.expand(parts, -1, -1), weight.view(parts, -1, weight.shape[1]).mT)  # (parts, rows, out / parts)
    return y.transpose(0, 1).flatten(1)


def _multiply_weight_first(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply weight (out, in) with the transpose of x (rows, in), and transpose the product: (rows, out)."""
    return (weight @ x.mT).mT.contiguous()


class CastLinear(torch.autograd.Function):
    """x (..., in) times the transpose of a weight (out, in) of another type, in the type of x.

    The weight is converted again in the backward pass: autograd's own would keep the converted copy of every weight
    until then, which is as much memory as weights of that type.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dy = gradients[0]
        dx = dy @ weight.to(dy.dtype) if ctx.needs_input_grad[0] else None
        dw = (dy.flatten(0, -2).mT @ x.flatten(0, -2)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return dx, dw


class Linear(nn.Linear):
    """A linear layer that computes with `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
