"""The causal convolution of each channel with its own short kernel, in training and decoding.

B, T, C: batch, position, channels; K: width of the kernel.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.blocks.base import on_cpu

ROW = 512
LONG = 4 * ROW
"""From here on the convolution's kernel is given rows: on a CPU its backward pass takes up to three times as long for a
position of longer ones."""


class ConvState(Protocol):
    """What a convolution keeps while decoding: its last K - 1 inputs (B, K - 1, C)."""

    conv: Tensor


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, cache: ConvState | None, documents: Tensor | None = None
) -> Tensor:
    """Convolve each channel of x (B, T, C) with its own causal kernel: weight (C, K), bias (C,) or zeros.

    documents: (B, T); what stands before a document counts as zeros.
    """
    before = weight.shape[1] - 1
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if cache is None and documents is None and x.shape[1] >= LONG and torch.is_grad_enabled() and on_cpu(x):
        return _convolve_rows(x, weight, bias)
    if cache is None:
        x = F.pad(x, (0, 0, before, 0))
    else:
        x = torch.cat((cache.conv.to(x.dtype), x), dim=1)
        cache.conv = x[:, x.shape[1] - before :]
        if x.shape[1] == weight.shape[1]:  # one position: a product and a sum cost less than a convolution's setting up
            return ((x * weight.T).sum(dim=1, keepdim=True) + bias).to(x.dtype)
        cache.conv = cache.conv.clone()  # not to keep all of a prompt
    if documents is not None or torch.compiler.is_compiling():
        return _convolve_taps(x, weight, bias, documents)
    return _convolve_image(x, weight, bias)


def _convolve_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve x (B, T, C), a text from its start, row by row, each behind the last inputs of the one before."""
    length, before = x.shape[1], weight.shape[1] - 1
    if padding := -length % ROW:
        x = F.pad(x, (0, 0, 0, padding))
    rows = x.unflatten(1, (-1, ROW))
    starts = F.pad(rows[:, :-1, ROW - before :], (0, 0, 0, 0, 1, 0))
    y = _convolve_image(torch.cat((starts, rows), dim=2).flatten(0, 1), weight, bias)
    return y.view(len(x), -1, x.shape[2])[:, :length]


def _convolve_image(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve x (B, K - 1 + T, C), with what stands before, as an image of one row.

    Its channels stand innermost, which is how they lie: nothing is moved.
    """
    image = x.transpose(1, 2).unsqueeze(2)
    return F.conv2d(image, weight[:, None, None], bias, groups=weight.shape[0]).squeeze(2).transpose(1, 2)


def _convolve_taps(x: Tensor, weight: Tensor, bias: Tensor, documents: Tensor | None) -> Tensor:
    """Convolve x (B, K - 1 + T, C) tap by tap, which a compiler makes one loop of, with what stands before and after.

    With documents each tap is masked by itself, since others may still be of the document. The product comes before
    the mask, so that of x nothing is kept for the backward pass but x itself. Of the weight a copy is made in which the
    channels of a tap lie side by side, as those of x do: the loop goes one by one otherwise.
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
