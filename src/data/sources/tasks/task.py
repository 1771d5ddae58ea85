"""What a task is: a function from random numbers to examples, and the settings that it reads.

n: examples; T: positions of each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from src.config.schema import TaskConfig, UserError
from src.data.hashing import splitmix64

IGNORED = -100
"""Target of a position that asks for no answer, as in torch's cross-entropy."""
PAD = 0
"""Token after the end of a shorter example, in tasks with several lengths."""


class Examples(NamedTuple):
    """Examples of a task."""

    inputs: np.ndarray
    """Tokens, (n, T) int64."""
    targets: np.ndarray
    """The answer after each position, or IGNORED: (n, T) int64. An answer need not be the next input."""
    distances: np.ndarray
    """Positions between an answer and what decides it, as the task defines it; 0 where no answer is asked: (n, T)."""


@dataclass(frozen=True)
class Task:
    """One kind of synthetic task."""

    generate: "Callable[[TaskConfig, RandomRows, int], Examples]"
    """From settings, random numbers and length T."""
    check: Callable[[TaskConfig, int], None]
    """Check settings that do not fit together or into a length. Raises UserError."""
    min_vocab_size: int
    settings: tuple[str, ...] = ()
    """Settings of `TaskConfig` that it reads besides `vocab_size`, `examples` and `test_lengths`."""
    required: tuple[str, ...] = ()
    """Those of them that have to be given."""
    difficulty: str | None = None
    """The setting besides the length that makes it harder; `test_<difficulty>` lists the values of the test."""


class RandomRows:
    """Random numbers for the rows of a batch; those of a row depend on its key alone, on every machine."""

    def __init__(self, keys: np.ndarray) -> None:
        """keys: (n,) uint64, a different one for each row."""
        self._keys, self._n_drawn = keys[:, None], 0

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, k: int) -> np.ndarray:
        """Draw k numbers of 64 bits for each row: (n, k) uint64."""
        counter = np.arange(self._n_drawn, self._n_drawn + k, dtype=np.uint64)
        self._n_drawn += k
        return splitmix64(self._keys ^ splitmix64(counter))

    def integers(self, low: int, high: int, k: int) -> np.ndarray:
        """Draw k numbers from low to below high: (n, k) int64; the bias of the modulus is below 2^-40."""
        return (self.bits(k) % np.uint64(high - low)).astype(np.int64) + low

    def uniform(self, k: int) -> np.ndarray:
        """Draw k numbers above 0 and below 1: (n, k)."""
        return ((self.bits(k) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def distinct(self, low: int, high: int, k: int) -> np.ndarray:
        """Draw k different numbers from low to below high, in random order: (n, k) int64 (Floyd's algorithm)."""
        chosen = np.full((len(self), k), -1, dtype=np.int64)
        for i, last in enumerate(range(high - low - k, high - low)):
            drawn = self.integers(0, last + 1, 1)
            chosen[:, i : i + 1] = np.where((chosen == drawn).any(axis=1, keepdims=True), last, drawn)
        return low + np.take_along_axis(chosen, np.argsort(self.bits(k), axis=1), axis=1)

    def weighted(self, weights: np.ndarray, k: int) -> np.ndarray:
        """Draw k different indices of weights (m,), one after another in proportion to them: (n, k) int64.

        By exponential clocks (Efraimidis and Spirakis, 2006): the order in which clocks with these rates ring.
        """
        return np.argsort(-np.log(self.uniform(len(weights))) / weights, axis=1)[:, :k]


def empty_targets(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and distances (n, T) of examples without answers."""
    return np.full_like(inputs, IGNORED), np.zeros_like(inputs)


def reject(key: str, value: Any, reason: str) -> UserError:
    """Return the error of a setting of a task."""
    return UserError(f"data.task.{key}={value}: {reason}")


def draw_lengths(config: TaskConfig, draw: RandomRows, length: int) -> np.ndarray:
    """Draw the length of each row, uniform from `min_length` to `length`, or `length` where it is not given: (n,)."""
    return draw.integers(config.min_length or length, length + 1, 1)[:, 0]
