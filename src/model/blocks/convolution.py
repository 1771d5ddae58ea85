"""The causal depthwise convolution with a short kernel, in training and decoding.

B, T, C: batch, position, channels; K: width of the kernel.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.blocks.base import should_use_cpu_kernel

ROW_LENGTH = 512
MIN_LONG_LENGTH = 4 * ROW_LENGTH
"""Positions from which a sequence is split into rows: on a CPU the backward pass of a long convolution takes up to
three times as long per position."""


class ConvState(Protocol):
    """The decoding state of a convolution: its last K - 1 inputs (B, K - 1, C)."""

    conv: Tensor


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, cache: ConvState | None, documents: Tensor | None = None
) -> Tensor:
    """Convolve each channel of x (B, T, C) with its own causal kernel: weight (C, K), bias (C,) or zeros.

    documents: (B, T); inputs before the start of a document count as zeros.
    """
    before = weight.shape[1] - 1
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if (
        cache is None
        and documents is None
        and x.shape[1] >= MIN_LONG_LENGTH
        and torch.is_grad_enabled()
        and should_use_cpu_kernel(x)
    ):
        return _convolve_rows(x, weight, bias)
    if cache is None:
        x = F.pad(x, (0, 0, before, 0))
    else:
        x = torch.cat((cache.conv.to(x.dtype), x), dim=1)
        cache.conv = x[:, x.shape[1] - before :]
        if x.shape[1] == weight.shape[1]:  # one position: cheaper than calling a convolution
            return ((x * weight.T).sum(dim=1, keepdim=True) + bias).to(x.dtype)
        cache.conv = cache.conv.clone()  # a copy, so that the whole prompt can be freed
    if documents is not None or torch.compiler.is_compiling():
        return _convolve_taps(x, weight, bias, documents)
    return _convolve_conv2d(x, weight, bias)


def _convolve_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve a sequence x (B, T, C) from its start in rows, each preceded by the last inputs of the previous row."""
    length, before = x.shape[1], weight.shape[1] - 1
    if padding := -length % ROW_LENGTH:
        x = F.pad(x, (0, 0, 0, padding))
    rows = x.unflatten(1, (-1, ROW_LENGTH))
    starts = F.pad(rows[:, :-1, ROW_LENGTH - before :], (0, 0, 0, 0, 1, 0))
    y = _convolve_conv2d(torch.cat((starts, rows), dim=2).flatten(0, 1), weight, bias)
    return y.view(len(x), -1, x.shape[2])[:, :length]


def _convolve_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve x (B, K - 1 + T, C), which includes the previous inputs, as a 2-D image with one row.

    The channels are innermost in memory (channels last), so nothing is copied.
    """
    image = x.transpose(1, 2).unsqueeze(2)
    return F.conv2d(image, weight[:, None, None], bias, groups=weight.shape[0]).squeeze(2).transpose(1, 2)


def _convolve_taps(x: Tensor, weight: Tensor, bias: Tensor, documents: Tensor | None) -> Tensor:
    """Convolve x (B, K - 1 + T, C) tap by tap; a compiler fuses the taps into one loop with the operations around it.

    Document masks differ between taps. The product comes before the mask, so that the backward pass saves nothing of x
    but x itself. The weight is copied with the channels of a tap contiguous, as in x; the loop is not vectorized
    otherwise.
    """
    before = weight.shape[1] - 1
    length = x.shape[1] - before
    taps = torch.stack(weight.unbind(1))
    y = bias + x[:, before:] * taps[before]
    for lag in range(1, before + 1):
        tap = x[:, before - lag : before - lag + length] * taps[before - lag]
        if documents is not None:
            tap = tap.masked_fill((documents != F.pad(documents, (lag, 0))[:, :length])[..., None], 0)
        y = y + tap
    return y.to(x.dtype)
