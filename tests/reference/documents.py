"""Reference implementation of document masking: the documents of a window, run separately."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def packed_ids(lengths: Sequence[int], batch: int) -> Tensor:
    """Return document ids (B, T) for documents of these lengths in every row."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).expand(batch, -1)


def scan_separately(
    scan: Callable[..., tuple[Tensor, Tensor]], lengths: Sequence[int]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return a function that runs the recurrence on each document separately; the first continues from `state`."""

    def run(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        ys = []
        for cut in torch.arange(x.shape[1]).split(list(lengths)):
            y, last = scan(x[:, cut], dt[:, cut], a, b[:, cut], c[:, cut], torch.zeros_like(state) if ys else state)
            ys.append(y)
        return torch.cat(ys, dim=1), last

    return run
