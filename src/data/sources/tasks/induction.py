"""Induction heads (Gu and Dao, 2023, Mamba, arXiv 2312.00752, section 4.1): what followed the special token before?

    x x x 0 v x x x x x 0        answer: v, at the last position

Tokens: 0 is the special token, which comes twice; all others are random. The distance of the answer is that between the
two special tokens.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import Examples, RandomRows, Task, empty_targets, reject


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of `length` positions."""
    inputs = draw.integers(1, config.vocab_size, length)
    place, rows = draw.integers(0, length - 2, 1)[:, 0], np.arange(len(draw))
    inputs[rows, place] = inputs[:, -1] = 0
    targets, distances = empty_targets(inputs)
    targets[:, -1], distances[:, -1] = inputs[rows, place + 1], length - 1 - place
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    if length < 3:
        raise reject("test_lengths", length, "must be at least 3")


INDUCTION = Task(generate, check, 3)
