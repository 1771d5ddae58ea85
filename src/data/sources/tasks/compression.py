"""Compression (MAD, Poli et al., 2024, arXiv 2403.17844): the whole sequence from one vector.

    a b c d e >        answers: each token before the mark, at its own position, from the hidden state of the mark

Tokens: the last is the mark >; all others are random. A decoder reads each position from the last hidden state
(`src/model/sequence_decoder.py`), so that no answer has another path. The distance of an answer is that to the mark.
MAD also asks for the mark, whose answer is always the same.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import Examples, RandomRows, Task, empty_targets, reject


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of `length` positions."""
    inputs = np.full((len(draw), length), config.vocab_size - 1, dtype=np.int64)
    inputs[:, :-1] = draw.integers(0, config.vocab_size - 1, length - 1)
    targets, distances = empty_targets(inputs)
    targets[:, :-1], distances[:, :-1] = inputs[:, :-1], np.arange(length - 1, 0, -1)
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    if length < 2:
        raise reject("test_lengths", length, "must be at least 2")


COMPRESSION = Task(generate, check, 3)
