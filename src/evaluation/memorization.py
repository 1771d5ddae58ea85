"""The share of a generated text that is a verbatim copy of training text.

Every span of SPAN tokens is hashed to 64 bits; the training text is read in chunks, so memory use does not depend on
its size.
"""

from collections.abc import Sequence

import numpy as np

SPAN = 24
"""Tokens: shorter copies are mostly common phrases."""
CHUNK_SIZE = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0


def memorized_shares(texts: Sequence[Sequence[int]], training: np.ndarray, span: int = SPAN) -> list[float]:
    """Return, for each text, the share of its tokens within a span of the training tokens; 0 if it is shorter than a
    span.

    texts: token ids. training: 1-D array of token ids (or a memmap).
    """
    hashes = [_hash_spans(np.asarray(text, dtype=np.uint64), span) for text in texts]
    wanted = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *hashes]))
    is_known = np.zeros(len(wanted), dtype=bool)
    for start in range(0, len(training) if len(wanted) else 0, CHUNK_SIZE):
        chunk = _hash_spans(np.asarray(training[start : start + CHUNK_SIZE + span - 1], dtype=np.uint64), span)
        # The texts have few spans, so finding each of the training text among them is faster than sorting the latter.
        places = np.minimum(np.searchsorted(wanted, chunk), len(wanted) - 1)
        is_known[places[wanted[places] == chunk]] = True
    known = wanted[is_known]
    shares: list[float] = []
    for text, own in zip(texts, hashes, strict=True):
        inside = np.zeros(len(text), dtype=bool)
        for first in np.flatnonzero(np.isin(own, known)):
            inside[first : first + span] = True
        shares.append(float(inside.mean()) if len(text) else 0.0)
    return shares


def distinct_share(texts: Sequence[Sequence[int]], n: int = 4) -> float | None:
    """Return distinct n-grams / all n-grams of these texts; None if there are none.

    1: no n-gram is repeated. (distinct-n; Li et al., 2016, arXiv 1510.03055.)
    """
    ngrams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def _hash_spans(tokens: np.ndarray, span: int) -> np.ndarray:
    """Hash every span of the tokens (uint64): polynomial hashes modulo 2^64."""
    n = len(tokens) - span + 1
    total = np.zeros(max(0, n), dtype=np.uint64)
    for offset in range(span if n > 0 else 0):
        total = total * _FACTOR + (tokens[offset : offset + n] + np.uint64(1))
    return total ^ (total >> np.uint64(32))
