"""Dropout (Srivastava et al., 2014) on the residual stream: on the embedding and on the output of each block.

Every architecture has these places, so all are regularized alike. nanoGPT and GPT-2 also drop attention weights, which
models without attention do not have. The embedding can have a probability of its own, as in Zoology (arXiv
2312.04927). The mask of a sequence is a function of a key (seed, stage, step) and of its row
in the global batch, so a resumed run, another micro batch size or more processes give the same masks. Blocks draw no
random numbers, so activation checkpointing has none to repeat.
"""

import hashlib

import torch
from torch import Tensor


class Dropout:
    """The masks of one forward pass, in the order in which they are requested."""

    def __init__(
        self, p: float, key: tuple[object, ...], rows: range, device: str, embedding_p: float | None = None
    ) -> None:
        """p: the probability, and embedding_p that of the embedding where it is another. key: plain values.

        rows: of the global batch. device: where masks are drawn.
        """
        self.p, self.embedding_p = p, p if embedding_p is None else embedding_p
        self.generators = [torch.Generator(device).manual_seed(hash_key((*key, row))) for row in rows]

    def drop_embedding(self, x: Tensor) -> Tensor:
        """Return the embedding x (B, ...) with elements dropped."""
        mask = self._draw(x, self.embedding_p)
        return x if mask is None else x * mask

    def mask(self, like: Tensor) -> Tensor | None:
        """Draw a mask in the shape of a tensor (B, ...): 0 for dropped elements, else 1 / (1 - p); None if p is 0."""
        return self._draw(like, self.p)

    def _draw(self, like: Tensor, p: float) -> Tensor | None:
        if not p:
            return None
        kept = torch.empty_like(like, requires_grad=False)
        for row, generator in zip(kept, self.generators, strict=True):
            row.bernoulli_(1 - p, generator=generator)
        return kept.div_(1 - p)


def hash_key(key: tuple[object, ...]) -> int:
    """Hash plain values to a seed of 63 bits."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest()) >> 1
