"""Dropout (Srivastava et al., 2014) on the residual stream: on the embedding, and on what each block adds.

Every architecture has these places, so all are regularized alike. nanoGPT and GPT-2 also drop attention weights, which
models without attention do not have. What is dropped is a function of a key (seed, stage, step, ...) alone: a run that
is resumed drops the same, and blocks draw nothing, so that activation checkpointing has nothing to draw again.
"""

import hashlib

import torch
from torch import Tensor


class Dropout:
    """The masks of one forward pass, in the order in which they are asked for."""

    def __init__(self, p: float, key: tuple[object, ...], device: str) -> None:
        """p: the share that is dropped. key: what decides the masks, of plain values. device: where they are drawn."""
        self.p = p
        seed = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest()) >> 1
        self.generator = torch.Generator(device).manual_seed(seed)

    def mask(self, like: Tensor) -> Tensor:
        """Draw factors in the shape of a tensor: 0 where a number is dropped, else 1 / (1 - p)."""
        kept = torch.empty_like(like, requires_grad=False).bernoulli_(1 - self.p, generator=self.generator)
        return kept.div_(1 - self.p)
