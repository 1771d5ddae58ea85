"""Memorization (MAD, Poli et al., 2024, arXiv 2403.17844): values of keys that no sequence shows, only training tells.

    k1 > k2 > k3 >        answers: the value of each key, at the mark after it

Tokens: the last is the mark >; the lower half of the others are keys, the upper half values. The value of a key is the
same in all sequences and all runs. The distance of an answer is 1, since only the key decides it.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.hashing import hash_numbers, shuffle_order
from src.data.sources.tasks.task import Examples, RandomRows, Task, empty_targets, reject

MAP_SEED = 12345


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of `length` positions."""
    n_keys, pairs = (config.vocab_size - 1) // 2, length // 2
    value_of = n_keys + shuffle_order(n_keys, hash_numbers(MAP_SEED))
    keys = draw.integers(0, n_keys, pairs)
    inputs = np.full((len(draw), length), config.vocab_size - 1, dtype=np.int64)
    inputs[:, 0 : 2 * pairs : 2] = keys
    targets, distances = empty_targets(inputs)
    targets[:, 1 : 2 * pairs : 2], distances[:, 1 : 2 * pairs : 2] = value_of[keys], 1
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    if length < 2:
        raise reject("test_lengths", length, "must be at least 2")


MEMORIZATION = Task(generate, check, 3)
