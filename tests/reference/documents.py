"""Documents that share a window, run one by one: twin of every reset and mask."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def packed_ids(lengths: Sequence[int], batch: int) -> Tensor:
    """Number the documents of these lengths in every row: (B, T)."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).expand(batch, -1)


def scan_separately(
    scan: Callable[..., tuple[Tensor, Tensor]], lengths: Sequence[int]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Make of a recurrence one over x, dt, b, c of several documents, of which the first goes on from `state`."""

    def apart(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        ys = []
        for cut in torch.arange(x.shape[1]).split(list(lengths)):
            y, last = scan(x[:, cut], dt[:, cut], a, b[:, cut], c[:, cut], torch.zeros_like(state) if ys else state)
            ys.append(y)
        return torch.cat(ys, dim=1), last

    return apart
