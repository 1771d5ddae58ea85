"""Exact bits of each token of generated text, and the tokens that repeat an earlier name.

Annotations are not stored with the prepared data. The token stream is cut into documents, these are decoded, and the
parser recovers their derivations. Text that the grammar does not generate (edited by hand) is counted, not annotated.

The bits of a character go to the token in which it begins, so they are exact in sum over a document. For a single token
they are slightly too high, because a token also implies that no longer token fits.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from src.data.sources.generated.parser import DOCUMENT_WRITERS, NotGenerated, parse
from src.data.tokenizer.bpe import byte_lengths


@dataclass(frozen=True)
class Annotations:
    """Annotations of the targets of n windows of T tokens."""

    bits: np.ndarray
    """(n, T): -log2 of the probability of each target given its document so far; nan where unknown."""
    recalls: np.ndarray
    """(m, 4) int64: window, first target, end, distance to the last mention; distance 0: outside of the window."""
    unparsed: int
    """Documents in the windows that the grammar does not generate."""


@dataclass(frozen=True)
class _Document:
    """bits: (n,) of each token. recalls: (k, 3) first token, end, first token of the mention."""

    bits: np.ndarray
    recalls: np.ndarray


def annotate_windows(
    tokens: np.ndarray, starts: list[int], seq_len: int, source: str, tokenizer: Tokenizer, eot_id: int
) -> Annotations:
    """Annotate the targets tokens[start + 1 : start + seq_len + 1] of each window of a stream of generated documents.

    source: stories or scripts. eot_id: the token before, between and after documents.
    """
    ends, lengths = np.flatnonzero(tokens == eot_id), byte_lengths(tokenizer)
    bits = np.full((len(starts), seq_len), np.nan)
    recalls: list[tuple[int, int, int, int]] = []
    unparsed: set[int] = set()

    @lru_cache(maxsize=8)  # a long document reaches into several windows
    def read(number: int) -> _Document | None:
        return _annotate(tokens[ends[number] + 1 : ends[number + 1]], source, tokenizer, lengths)

    for window, start in enumerate(starts):
        first, last = start + 1, start + seq_len  # targets, both included
        bits[window, ends[(ends >= first) & (ends <= last)] - first] = 0.0  # the end of a document is certain
        for number in range(int(np.searchsorted(ends, first, "right")) - 1, int(np.searchsorted(ends, last))):
            document = read(number)
            if document is None:
                unparsed.add(number)
                continue
            begin = int(ends[number]) + 1
            low, high = max(first, begin), min(last + 1, int(ends[number + 1]))
            bits[window, low - first : high - first] = document.bits[low - begin : high - begin]
            for use, end, mention in document.recalls + begin:
                if low <= use and end <= high:
                    recalls.append((window, use - first, end - first, use - mention if mention >= start else 0))
    return Annotations(bits, np.array(recalls, dtype=np.int64).reshape(-1, 4), len(unparsed))


def _annotate(ids: np.ndarray, source: str, tokenizer: Tokenizer, lengths: np.ndarray) -> _Document | None:
    """Annotate the tokens of a document; None if the grammar does not generate it."""
    text = tokenizer.decode(ids.tolist())
    characters = np.cumsum([0, *(len(letter.encode()) for letter in text)])
    starts = np.cumsum(lengths[ids]) - lengths[ids]
    try:
        derivation = parse(DOCUMENT_WRITERS[source], text)
    except NotGenerated:
        return None
    token_of = np.searchsorted(starts, characters[:-1], "right") - 1
    bits = np.bincount(token_of, weights=derivation.bits_by_character, minlength=len(ids))
    recalls = [(token_of[use], token_of[end - 1] + 1, token_of[mention]) for use, end, mention in derivation.recalls]
    # A token may also hold an undetermined character before the name; then it is not a recall.
    certain = [recall for recall in recalls if not bits[recall[0] : recall[1]].any()]
    return _Document(bits, np.array(certain, dtype=np.int64).reshape(-1, 3))
