"""Fuzzy in-context recall (MAD, Poli et al., 2024, arXiv 2403.17844): keys and values of several tokens.

    a b x y  c z  a b x y        answers: each token of the value of a repeated key, at the token before it

Tokens: the last pads at the start; the lower half of the others are parts of keys, the upper half of values. A motif
has 1 to motif_length different tokens, all lengths equally likely. A key has one value in a sequence; the last key
repeats an earlier one. The distance of an answer is that to the same token of the last mention. MAD's test has keys of
motif_length alone; here training and test are alike.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import IGNORED, Examples, RandomRows, Task, reject

Motif = tuple[int, ...]


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of `length` positions."""
    most, half, most_motifs = config.motif_length or 1, (config.vocab_size - 1) // 2, length // 2
    sizes = draw.integers(1, most + 1, 2 * most_motifs).reshape(len(draw), most_motifs, 2)
    keys, values = (
        np.stack([draw.distinct(low, low + half, most) for _ in range(most_motifs)], axis=1) for low in (0, half)
    )
    chosen = draw.uniform(1)[:, 0]
    inputs = np.full((len(draw), length), config.vocab_size - 1, dtype=np.int64)
    targets, distances = np.full_like(inputs, IGNORED), np.zeros_like(inputs)
    for row in range(len(draw)):
        motifs = [
            (tuple(keys[row, i, : sizes[row, i, 0]].tolist()), tuple(values[row, i, : sizes[row, i, 1]].tolist()))
            for i in range(most_motifs)
        ]
        tokens, answers = _lay_out(motifs, float(chosen[row]), length)
        start = length - len(tokens)
        inputs[row, start:] = tokens
        for place, distance in answers:
            targets[row, start + place - 1], distances[row, start + place - 1] = tokens[place], distance
    return Examples(inputs, targets, distances)


def _lay_out(motifs: list[tuple[Motif, Motif]], chosen: float, length: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the tokens of a sequence, and the place and distance of each answer.

    motifs: keys and values in order, as far as they fit. chosen: which of the keys comes last, from 0 to 1.
    """
    value_of: dict[Motif, Motif] = {}
    shown: list[Motif] = []
    size, longest = 0, 0
    for key, value in motifs:
        pair = len(key) + len(value_of.get(key, value))
        if size + pair + max(longest, pair) > length and shown:
            break
        value_of.setdefault(key, value)
        shown.append(key)
        size, longest = size + pair, max(longest, pair)
    shown.append(shown[int(chosen * len(shown))])
    tokens: list[int] = []
    answers: list[tuple[int, int]] = []
    seen: dict[Motif, int] = {}
    for key in shown:
        tokens += key
        if key in seen:
            answers += [(len(tokens) + i, len(tokens) - seen[key]) for i in range(len(value_of[key]))]
        seen[key] = len(tokens)
        tokens += value_of[key]
    return tokens, answers


def check(config: TaskConfig, length: int) -> None:
    most, half = config.motif_length or 1, (config.vocab_size - 1) // 2
    if most > half:
        raise reject("motif_length", most, f"more than the {half} tokens of keys; give a larger vocab_size")
    if length < 4 * most:
        raise reject("motif_length", most, f"two pairs take {4 * most} positions, more than the length {length}")


FUZZY_RECALL = Task(generate, check, 5, ("motif_length",), ("motif_length",))
