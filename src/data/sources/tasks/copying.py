"""Copying, and selective copying (MAD, Poli et al., 2024, arXiv 2403.17844; Jing et al., 2019): repeat tokens in order.

    a b c . . . . . > . . .        copying: the tokens come first
    . a . . b . c . > . . .        selective copying: they are at random places
                      a b c        answers

Tokens: the last is the mark >, the one before it the blank; all others can be copied. In MAD's generator of the
selective task a blank never follows the last token to copy; here every choice of places is equally likely. The distance
of an answer is that to the token to copy.
"""

from functools import partial

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import Examples, RandomRows, Task, empty_targets, reject


def generate(config: TaskConfig, draw: RandomRows, length: int, *, is_selective: bool) -> Examples:
    """Generate examples of `length` positions."""
    n, mark, blank = config.tokens_to_copy or 1, config.vocab_size - 1, config.vocab_size - 2
    tokens = draw.integers(0, blank, n)
    places = np.broadcast_to(np.arange(n), tokens.shape)
    if is_selective:
        places = np.sort(draw.distinct(0, length - n - 1, n), axis=1)
    inputs = np.full((len(draw), length), blank, dtype=np.int64)
    np.put_along_axis(inputs, places, tokens, axis=1)
    inputs[:, length - n - 1] = mark
    targets, distances = empty_targets(inputs)
    targets[:, length - n :], distances[:, length - n :] = tokens, np.arange(length - n, length) - places
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    n = config.tokens_to_copy or 1
    if length < 2 * n + 1:
        raise reject("tokens_to_copy", n, f"takes {2 * n + 1} positions, more than the length {length}")


COPYING, SELECTIVE_COPYING = (
    Task(partial(generate, is_selective=each), check, 3, ("tokens_to_copy",), ("tokens_to_copy",), "tokens_to_copy")
    for each in (False, True)
)
