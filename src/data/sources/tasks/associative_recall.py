"""Associative recall with one query (as in arXiv 2505.15105): pairs of key and value, a mark, a key, then its value.

    BOS k1 v1 k2 v2 ... kP vP SEP k2        answer: v2, at the last key

Tokens: 0 pads, 1 is BOS, 2 SEP; the lower half of the others are keys, the upper half values, none twice. A sequence of
length T has (T - 3) / 2 pairs. The distance of the answer is that of the query to its pair.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import PAD, Examples, RandomRows, Task, draw_lengths, empty_targets, reject

BOS, SEP, FIRST = 1, 2, 3


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of up to `length` positions."""
    n_keys = (config.vocab_size - FIRST) // 2
    most = (length - 3) // 2
    keys = draw.distinct(FIRST, FIRST + n_keys, most)
    values = draw.distinct(FIRST + n_keys, FIRST + 2 * n_keys, most)
    pairs = (draw_lengths(config, draw, length) - 3) // 2
    asked = (draw.uniform(1)[:, 0] * pairs).astype(np.int64)
    rows, column = np.arange(len(draw)), np.arange(length)
    inputs = np.full((len(draw), length), PAD, dtype=np.int64)
    inputs[:, 0] = BOS
    inputs[:, 1 : 2 * most : 2], inputs[:, 2 : 2 * most + 1 : 2] = keys, values
    query = 2 * pairs + 2
    inputs[column > query[:, None]] = PAD
    inputs[rows, query - 1], inputs[rows, query] = SEP, keys[rows, asked]
    targets, distances = empty_targets(inputs)
    targets[rows, query], distances[rows, query] = values[rows, asked], query - 1 - 2 * asked
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    n_keys, pairs = (config.vocab_size - FIRST) // 2, (length - 3) // 2
    if pairs < 1:
        raise reject("min_length", config.min_length, f"a sequence of {length} has no pair; at least 5 are needed")
    if pairs > n_keys:
        raise reject(
            "vocab_size", config.vocab_size, f"has {n_keys} keys, and length {length} takes {pairs}; give more"
        )


ASSOCIATIVE_RECALL = Task(generate, check, 5, ("min_length",))
