"""Multi-query associative recall (Arora et al., 2023, Zoology, arXiv 2312.04927): pairs, then each key once more.

    k1 v1 k2 v2 ... kP vP  0 0 k2 0 k1 0 0 0 ...        answers: the value of each repeated key, at that key

Tokens: 0 fills the gaps; the lower half of the others are keys, the upper half values. Keys are different from each
other, and so are values. A query is at each second position after the pairs, at gap g with a probability in proportion
to g^(a - 1), a = query_power. The distance of an answer is that of the query to its pair.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import Examples, RandomRows, Task, empty_targets, reject


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of `length` positions."""
    pairs, half = config.pairs or 1, config.vocab_size // 2
    keys, values = draw.distinct(1, half, pairs), draw.distinct(half, config.vocab_size, pairs)
    inputs = np.zeros((len(draw), length), dtype=np.int64)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    gaps = np.arange(1, (length - 2 * pairs) // 2 + 1, dtype=np.float64)
    places = 2 * pairs + 2 * draw.weighted(gaps ** (config.query_power - 1), pairs)
    targets, distances = empty_targets(inputs)
    np.put_along_axis(inputs, places, keys, axis=1)
    np.put_along_axis(targets, places, values, axis=1)
    np.put_along_axis(distances, places, places - 2 * np.arange(pairs), axis=1)
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    pairs, half = config.pairs or 1, config.vocab_size // 2
    if 4 * pairs > length:
        raise reject("pairs", pairs, f"pairs and queries take {4 * pairs} positions, more than the length {length}")
    if pairs > half - 1:
        raise reject("vocab_size", config.vocab_size, f"has {half - 1} keys, fewer than pairs={pairs}; give more")


MQAR = Task(generate, check, 6, ("pairs", "query_power"), ("pairs",), "pairs")
