"""Modular arithmetic without brackets, for state tracking (Deletang et al., 2023; Grazzi et al., arXiv 2411.12537).

    3 + 1 - 2 * 4 =        answer: the value modulo m, at the equals sign; products come first

Tokens: 0 pads, 1 to 4 are + - * =, and 5 to m + 4 are the numbers 0 to m - 1, so that m = vocab_size - 5. A sequence of
length T has T / 2 numbers. The distance of the answer is the length.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import PAD, Examples, RandomRows, Task, draw_lengths, empty_targets, reject

MINUS, TIMES, EQUALS, FIRST = 2, 3, 4, 5


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of up to `length` positions."""
    modulus, most, rows = config.vocab_size - FIRST, length // 2, np.arange(len(draw))
    numbers, operators = draw.integers(0, modulus, most), draw.integers(1, EQUALS, most)
    counts = draw_lengths(config, draw, length) // 2
    inputs = np.full((len(draw), length), PAD, dtype=np.int64)
    inputs[:, 0 : 2 * most : 2], inputs[:, 1 : 2 * most : 2] = numbers + FIRST, operators
    last = 2 * counts - 1
    inputs[rows, last] = EQUALS
    inputs[np.arange(length) > last[:, None]] = PAD
    targets, distances = empty_targets(inputs)
    targets[rows, last] = evaluate(numbers, operators, counts, modulus) + FIRST
    distances[rows, last] = last + 1
    return Examples(inputs, targets, distances)


def evaluate(numbers: np.ndarray, operators: np.ndarray, counts: np.ndarray, modulus: int) -> np.ndarray:
    """Return the value modulo `modulus` of each row (n,): its first `counts` numbers (n, P) and operators between."""
    total, term = np.zeros_like(counts), numbers[:, 0]
    for i in range(1, numbers.shape[1]):
        is_inside, operator = i < counts, operators[:, i - 1]
        is_product = operator == TIMES
        signed = np.where(operator == MINUS, -1, 1) * numbers[:, i]
        total = np.where(is_inside & ~is_product, total + term, total) % modulus
        term = np.where(is_inside, np.where(is_product, term * numbers[:, i], signed), term) % modulus
    return (total + term) % modulus


def check(config: TaskConfig, length: int) -> None:
    if length < 2:
        raise reject("min_length", config.min_length, "a sequence has a number and an equals sign: at least 2")


MODULAR_ARITHMETIC = Task(generate, check, 7, ("min_length",))
