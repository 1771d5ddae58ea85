"""A synthetic task in the place of prepared data: batches from seed and step, and fixed test sets; nothing is written.

A row of a batch has inputs and targets, (2, T), where text has T + 1 tokens: an answer need not be the next input.
Example number i of a split depends on the task's settings, the seed of the data, the split and i alone. Training
examples have the numbers of an epoch in random order or, without `examples`, a new random number each.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np

from src.config.schema import TASK, DataConfig, TaskConfig
from src.data.hashing import hash_numbers, shuffle_order, splitmix64
from src.data.sources.tasks.registry import REGISTRY, fits
from src.data.sources.tasks.task import Examples, RandomRows

VERSION = 1
"""Increase when the examples of a task change; it is part of the fingerprint."""
SPLITS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class HeldOutSet:
    """Held-out examples of one difficulty."""

    length: int
    difficulty: int | None
    """The value of the task's difficulty, such as pairs; None: it has none besides the length."""
    examples: Examples


@dataclass(frozen=True)
class TaskData:
    """A task, as `PreparedData` where both have the same."""

    config: DataConfig

    @property
    def task(self) -> TaskConfig:
        return self.config.task

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def location(self) -> str:
        """Where the data is, for messages."""
        return f"data={self.name}"

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that decide the examples."""
        return _digest([VERSION, asdict(self.task), self.config.seed])

    @property
    def tokenizer_sha256(self) -> str:
        """Stands for the tokenizer: equal for tasks of the same name and vocabulary."""
        return _digest([self.task.name, self.task.vocab_size])

    @property
    def vocab_size(self) -> int:
        return self.task.vocab_size

    @property
    def corpora(self) -> tuple[str, ...]:
        return (TASK,)

    @property
    def difficulty(self) -> str | None:
        """The setting besides the length that makes the task harder."""
        return REGISTRY[self.task.name].difficulty

    def references(self, corpus: str, split: str) -> dict[str, float | None]:
        """Return the loss without any knowledge, every token being equally likely."""
        return {"uniform_loss": float(np.log(self.vocab_size))}

    def generate(self, split: str, numbers: np.ndarray, length: int, task: TaskConfig | None = None) -> Examples:
        """Generate the examples with these numbers (n,) uint64; task: settings of another difficulty."""
        keys = splitmix64(splitmix64(numbers) ^ hash_numbers(self.config.seed, SPLITS[split], length))
        task = task or self.task
        return REGISTRY[task.name].generate(task, RandomRows(keys), length)

    def held_out_sets(self, split: str, seq_len: int, n: int) -> Iterator[HeldOutSet]:
        """Generate n held-out examples of each length and difficulty of the test that fit together."""
        key, base = self.difficulty, replace(self.task, min_length=None)
        values: list[int | None] = [None]
        if key:
            values = getattr(self.task, f"test_{key}") or [getattr(self.task, key)]
        for length, value in product(self.task.test_lengths or [seq_len], values):
            task = replace(base, **{key: value}) if key else base
            if fits(task, length):
                yield HeldOutSet(length, value, self.generate(split, np.arange(n, dtype=np.uint64), length, task))


class TaskLoader:
    """Training batches of a task."""

    def __init__(self, data: TaskData, seq_len: int, seed: int) -> None:
        self.data, self.seq_len, self.seed = data, seq_len, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int, global_batch_size: int, rows: slice | range = slice(None)) -> np.ndarray:
        """Return rows of the batch of a step: inputs and targets, (n_rows, 2, seq_len) int64."""
        sequences = np.arange(global_batch_size)[rows] + step * global_batch_size
        if (n := self.data.task.examples) is None:
            numbers = splitmix64(sequences.astype(np.uint64) ^ hash_numbers(self.seed))
        else:
            numbers = np.array([self._in_epoch(*divmod(number, n)) for number in sequences.tolist()], dtype=np.uint64)
        return rows_of(self.data.generate("train", numbers, self.seq_len))

    def _in_epoch(self, epoch: int, position: int) -> int:
        """Return the number of an example by its position in an epoch; the order of the last epoch is cached."""
        if epoch != self._epoch:
            key = hash_numbers(self.seed, epoch)
            self._epoch, self._order = epoch, shuffle_order(self.data.task.examples or 1, key)
        return int(self._order[position])

    def order_hash(self, fingerprint: str) -> str:
        """Return 16 hex digits that are equal for two runs with the same batches at a given batch size."""
        return _digest([VERSION, self.seed, self.seq_len, fingerprint])[:16]


def rows_of(examples: Examples) -> np.ndarray:
    """Stack inputs and targets: (n, 2, T)."""
    return np.stack([examples.inputs, examples.targets], axis=1)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
