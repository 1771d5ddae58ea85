"""Reference implementation of near-duplicate removal: every pair is compared, word by word."""

import re


def reference_jaccard(a: str, b: str) -> float:
    """Return the Jaccard similarity of the sets of word 5-grams; a text below 5 words is one gram."""
    grams = []
    for text in (a, b):
        words = re.findall(r"\w+", text)
        grams.append({tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} if words else set())
    return len(grams[0] & grams[1]) / max(1, len(grams[0] | grams[1]))


def reference_deduplication(texts: list[str], threshold: float) -> list[int]:
    """Return the indices of the texts that are not near duplicates of an earlier kept one."""
    kept: list[int] = []
    for index, text in enumerate(texts):
        if all(reference_jaccard(text, texts[other]) < threshold for other in kept):
            kept.append(index)
    return kept
