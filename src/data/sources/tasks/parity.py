"""Parity of a sequence of bits, a task of state tracking (Grazzi et al., 2024, arXiv 2411.12537).

    1 0 1 1 0        answer: 1, the sum of the bits modulo 2, at the last bit

Tokens: 0 pads, 1 and 2 are the bits 0 and 1, also as answers. The distance of the answer is the number of bits.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import PAD, Examples, RandomRows, Task, draw_lengths, empty_targets, reject


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of up to `length` positions."""
    bits, lengths, rows = draw.integers(0, 2, length), draw_lengths(config, draw, length), np.arange(len(draw))
    is_inside = np.arange(length) < lengths[:, None]
    inputs = np.where(is_inside, bits + 1, PAD)
    targets, distances = empty_targets(inputs)
    targets[rows, lengths - 1], distances[rows, lengths - 1] = (bits * is_inside).sum(axis=1) % 2 + 1, lengths
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    if config.vocab_size != 3:
        raise reject("vocab_size", config.vocab_size, "parity has 3 tokens")


PARITY = Task(generate, check, 3, ("min_length",))
