"""Causal attention with windows and document masks by torch's FlexAttention: a kernel that skips what a mask hides.

The kernel is compiled at its first call. In torch 2.13 it has gradients on CUDA, not on MPS or the CPU, so
`src/training/kernel_trial.py` decides where it is used; tests compare its mask with the reference on the CPU.

B, T: batch, position; H: heads; P: head_dim.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor


def flex_causal_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None = None, documents: Tensor | None = None
) -> Tensor:
    """Attend from each position to itself and the previous window - 1 of its document.

    q, k, v and result: (B, H, T, P); documents: (B, T). Raises: NotImplementedError, a RuntimeError, where the device
    has no gradients.
    """
    mask = block_mask(q.shape[2], window or q.shape[2], documents, q.device)
    return compiled_attention()(q, k, v, block_mask=mask)


@cache
def compiled_attention() -> Callable[..., Any]:
    """Return the kernel, which is compiled for each shape; imported here, as few runs need it."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=4)
def block_mask(length: int, window: int, documents: Tensor | None, device: torch.device) -> Any:
    """Return the mask of all heads; it is made once for all blocks of a forward pass, which have the same tensor."""
    from torch.nn.attention.flex_attention import create_block_mask

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = (key <= query) & (query - key < window)
        return visible if documents is None else visible & (documents[batch, query] == documents[batch, key])

    batch_size = None if documents is None else len(documents)
    return create_block_mask(is_visible, batch_size, None, length, length, device=device)  # pyright: ignore[reportArgumentType]
