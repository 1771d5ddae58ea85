"""What of a generated text stands verbatim in the training text.

Every stretch of STRETCH tokens is known by a hash of 64 bits; the training text goes by in pieces, so that memory stays
small whatever its size.
"""

from collections.abc import Sequence

import numpy as np

STRETCH = 24
"""Tokens in a row that stand in the training text: fewer are the common words of the trade."""
PIECE = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0


def memorised_shares(texts: Sequence[Sequence[int]], training: np.ndarray, stretch: int = STRETCH) -> list[float]:
    """Return, for each text, the share of its tokens that lie in a stretch of the training tokens; 0 if it is shorter.

    texts: token ids. training: 1-D array of token ids (a memmap will do).
    """
    hashes = [_hashes(np.asarray(text, dtype=np.uint64), stretch) for text in texts]
    wanted = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *hashes]))
    found: list[np.ndarray] = []
    for start in range(0, len(training) if len(wanted) else 0, PIECE):
        piece = np.asarray(training[start : start + PIECE + stretch - 1], dtype=np.uint64)
        found.append(np.intersect1d(wanted, _hashes(piece, stretch)))
    known = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *found]))
    shares: list[float] = []
    for text, own in zip(texts, hashes, strict=True):
        inside = np.zeros(len(text), dtype=bool)
        for first in np.flatnonzero(np.isin(own, known)):
            inside[first : first + stretch] = True
        shares.append(float(inside.mean()) if len(text) else 0.0)
    return shares


def distinct_share(texts: Sequence[Sequence[int]], n: int = 4) -> float | None:
    """Return how many unlike runs of n tokens these texts have, over all that they have; None where there is none.

    1: nothing is said twice. (distinct-n; Li et al., 2016, arXiv 1510.03055.)
    """
    runs = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None


def _hashes(tokens: np.ndarray, stretch: int) -> np.ndarray:
    """Hash every stretch of the tokens (uint64): as polynomials in a fixed number, modulo 2^64."""
    n = len(tokens) - stretch + 1
    total = np.zeros(max(0, n), dtype=np.uint64)
    for offset in range(stretch if n > 0 else 0):
        total = total * _FACTOR + (tokens[offset : offset + n] + np.uint64(1))
    return total ^ (total >> np.uint64(32))
