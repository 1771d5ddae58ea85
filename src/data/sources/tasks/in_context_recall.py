"""In-context and noisy recall (MAD, Poli et al., 2024, arXiv 2403.17844): the value of a key that was seen before.

    k1 v1 k2 v2 k1 v1 n n k2 v2        answers: the value of each repeated key, at that key; n: noise

Tokens: the last `noise_vocab_size` are noise; the lower half of the others are keys, the upper half values. A key has
one value in a sequence; the last key repeats an earlier one. Noise replaces a share of the pairs between the first and
the last. The distance of an answer is that to the last mention of its key.
"""

import numpy as np

from src.config.schema import TaskConfig
from src.data.sources.tasks.task import Examples, RandomRows, Task, empty_targets, reject


def generate(config: TaskConfig, draw: RandomRows, length: int) -> Examples:
    """Generate examples of `length` positions."""
    n_noise, pairs, rows = config.noise_vocab_size or 0, length // 2, np.arange(len(draw))
    n_keys = (config.vocab_size - n_noise) // 2
    keys, value_of = draw.integers(0, n_keys, pairs), draw.integers(n_keys, 2 * n_keys, n_keys)
    is_noise = draw.uniform(pairs) < (config.noise_share or 0.0)
    is_noise[:, [0, -1]] = False
    # The last key is that of a random pair before it that is not noise; a pair of noise is never the largest.
    shown = np.where(is_noise[:, :-1], 0.0, draw.uniform(pairs - 1)).argmax(axis=1)
    keys[:, -1] = keys[rows, shown]
    inputs = np.zeros((len(draw), length), dtype=np.int64)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, np.take_along_axis(value_of, keys, axis=1)
    if n_noise:
        noise = draw.integers(2 * n_keys, 2 * n_keys + n_noise, 2 * pairs)
        inputs[:, : 2 * pairs] = np.where(np.repeat(is_noise, 2, axis=1), noise, inputs[:, : 2 * pairs])
    targets, distances = empty_targets(inputs)
    last_seen = np.full((len(draw), n_keys), -1)
    for i in range(pairs):
        before = last_seen[rows, keys[:, i]]
        is_asked = (before >= 0) & ~is_noise[:, i]
        targets[is_asked, 2 * i] = inputs[is_asked, 2 * i + 1]
        distances[is_asked, 2 * i] = 2 * i - before[is_asked]
        last_seen[rows, keys[:, i]] = np.where(is_noise[:, i], before, 2 * i)
    return Examples(inputs, targets, distances)


def check(config: TaskConfig, length: int) -> None:
    n_noise = config.noise_vocab_size or 0
    if config.vocab_size - n_noise < 4:
        raise reject("noise_vocab_size", n_noise, f"leaves fewer than 4 of vocab_size={config.vocab_size}; give less")
    if length < 4:
        raise reject("test_lengths", length, "must be at least 4, two pairs")


IN_CONTEXT_RECALL = Task(generate, check, 4)
NOISE = ("noise_vocab_size", "noise_share")
NOISY_RECALL = Task(generate, check, 5, NOISE, NOISE)
