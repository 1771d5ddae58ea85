"""Dropout (Srivastava et al., 2014) on the residual stream: on the embedding and on the output of each block.

Every architecture has these places, so all are regularized alike. nanoGPT and GPT-2 also drop attention weights, which
models without attention do not have. The mask of a sequence is a function of a key (seed, stage, step) and of its row
in the global batch, so a resumed run, another micro batch size or more processes give the same masks. Blocks draw no
random numbers, so activation checkpointing has none to repeat.
"""

import hashlib

import torch
from torch import Tensor


class Dropout:
    """The masks of one forward pass, in the order in which they are requested."""

    def __init__(self, p: float, key: tuple[object, ...], rows: range, device: str) -> None:
        """p: the dropout probability. key: plain values. rows: of the global batch. device: where masks are drawn."""
        self.p = p
        self.generators = [torch.Generator(device).manual_seed(hash_key((*key, row))) for row in rows]

    def mask(self, like: Tensor) -> Tensor:
        """Draw a mask in the shape of a tensor (B, ...): 0 for dropped elements, else 1 / (1 - p)."""
        kept = torch.empty_like(like, requires_grad=False)
        for row, generator in zip(kept, self.generators, strict=True):
            row.bernoulli_(1 - self.p, generator=generator)
        return kept.div_(1 - self.p)


def hash_key(key: tuple[object, ...]) -> int:
    """Hash plain values to a seed of 63 bits."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest()) >> 1
