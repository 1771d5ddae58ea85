"""Batches as a pure function of (tokens, seed, step), so that a resume needs no saved loader state.

Each epoch cuts the stream into windows of `seq_len` targets from its own offset and visits them in its own order.
Sequence s = step * global_batch_size + i of the run is window s % n_windows of epoch s // n_windows. The order does not
depend on the micro batch or the number of processes; these only select rows of the batch. Windows are sorted by a hash
of (seed, epoch, window): `data/hashing.py`.

With sampling=replacement (as in nanoGPT), sequence s begins at position hash(seed, s) mod the number of positions.

A mixture interleaves its corpora evenly: at every sequence, each corpus is less than one sequence away from its share.
The number of a sequence determines its corpus and its number within that corpus, so each corpus has its own epochs.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from src.config.schema import StageConfig, UserError
from src.data.dataset import Data, PreparedData
from src.data.hashing import shuffle_order, splitmix64
from src.data.task_data import TaskLoader

ORDER_VERSION = 1
"""Increase when the order changes; it is part of the order hash of a run."""
REPLACEMENT = "replacement"
"""The value of training.sampling that draws windows with replacement."""


class TrainLoader:
    """Training windows over a 1-D array of token ids, which may be a memmap.

    mix: other loaders and their shares of the sequences, above 0 and with a sum below 1; `tokens` gets the rest.
    Raises: UserError if the tokens do not fill one window.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        seq_len: int,
        seed: int,
        name: str = "the training text",
        mix: "Sequence[tuple[TrainLoader, float]]" = (),
        replacement: bool = False,
    ) -> None:
        _check_length(tokens, seq_len, name)
        self.tokens = tokens
        self.seq_len = seq_len
        self.seed = seed
        self.replacement = replacement
        self._mix: list[tuple[TrainLoader, Fraction]] = []
        """Loaders, each with its share of the sequences that the loaders before it leave."""
        left = Fraction(1)
        for other, share in mix:
            exact = Fraction(str(share))  # a float share would drift in a long run
            self._mix.append((other, exact / left))
            left -= exact
        # One window fewer than fit, so that every offset below seq_len leaves the same number.
        self.n_windows = max(1, len(tokens) // seq_len - 1)
        self._n_offsets = min(seq_len, len(tokens) - self.n_windows * seq_len)
        self._epoch = -1
        self._starts = np.empty(0, dtype=np.int64)

    def batch(self, step: int, global_batch_size: int, rows: slice | range = slice(None)) -> np.ndarray:
        """Return rows of the batch of a step: (n_rows, seq_len + 1) int64, inputs [:, :-1] and targets [:, 1:]."""
        numbers = np.arange(global_batch_size)[rows] + step * global_batch_size
        result = np.empty((len(numbers), self.seq_len + 1), dtype=np.int64)
        for row, number in enumerate(numbers.tolist()):
            result[row] = self._sequence(number)
        return result

    def _sequence(self, number: int) -> np.ndarray:
        """Read a sequence by its number in the run: (seq_len + 1,)."""
        for other, share in self._mix:
            before = number * share.numerator // share.denominator
            if (number + 1) * share.numerator // share.denominator > before:
                return other._sequence(before)
            number -= before
        if self.replacement:
            start = self._random_start(number)
        else:
            epoch, position = divmod(number, self.n_windows)
            start = int(self._epoch_starts(epoch)[position])
        return self.tokens[start : start + self.seq_len + 1]

    def _random_start(self, number: int) -> int:
        """Return the start of a sequence that is drawn with replacement, uniform over all whole windows."""
        key = splitmix64(np.array([self.seed % 2**64], dtype=np.uint64))
        return int(splitmix64(splitmix64(key ^ np.uint64(number)))[0] % np.uint64(len(self.tokens) - self.seq_len))

    def _epoch_starts(self, epoch: int) -> np.ndarray:
        """Return the starts of the windows of an epoch in visiting order; the last epoch is cached."""
        if epoch != self._epoch:
            key = splitmix64(splitmix64(np.array([self.seed % 2**64], dtype=np.uint64)) ^ np.uint64(epoch))
            offset = int(splitmix64(key)[0] % np.uint64(self._n_offsets))
            order = shuffle_order(self.n_windows, key[0])
            self._epoch, self._starts = epoch, offset + self.seq_len * order.astype(np.int64)
        return self._starts

    def order_hash(self, fingerprint: str) -> str:
        """Return 16 hex digits that are equal for two runs with the same batches at a given batch size."""
        parts = (ORDER_VERSION, self.seed, self.n_windows, self.seq_len, fingerprint)
        parts += (REPLACEMENT, len(self.tokens)) if self.replacement else ()
        parts += tuple((str(share), other.order_hash(fingerprint)) for other, share in self._mix)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


Loader = TrainLoader | TaskLoader


def build_loader(data: Data, stage: StageConfig, seq_len: int, seed: int, sampling: str = "epochs") -> Loader:
    """Open the training text of a stage and of its mixture, or a task.

    Raises: UserError if a text does not fill one window.
    """
    if not isinstance(data, PreparedData):
        return TaskLoader(data, seq_len, seed)

    def open_corpus(corpus: str, mix: Sequence[tuple[TrainLoader, float]] = ()) -> TrainLoader:
        tokens, name = data.tokens(corpus, "train"), f"the {corpus} text"
        return TrainLoader(tokens, seq_len, seed, name, mix, replacement=sampling == REPLACEMENT)

    return open_corpus(stage.corpus, [(open_corpus(other), share) for other, share in stage.mixture.items()])


def eval_windows(tokens: np.ndarray, seq_len: int, n: int, name: str = "the held-out text") -> np.ndarray:
    """Return up to n evenly spaced windows without common targets: (n', seq_len + 1) int64.

    Raises: UserError if the tokens do not fill one window.
    """
    _check_length(tokens, seq_len, name)
    if n < 1:
        raise UserError(f"training.eval_sequences={n}: must be at least 1")
    starts = eval_starts(len(tokens), seq_len, n)
    return np.stack([np.asarray(tokens[start : start + seq_len + 1], dtype=np.int64) for start in starts])


def eval_starts(n_tokens: int, seq_len: int, n: int) -> list[int]:
    """Return the starts of the windows of `eval_windows`."""
    available = (n_tokens - 1) // seq_len
    n = min(n, available)
    return [i * available // n * seq_len for i in range(n)]


def _check_length(tokens: np.ndarray, seq_len: int, name: str) -> None:
    if seq_len < 1:
        raise UserError(f"training.seq_len={seq_len}: must be at least 1")
    if len(tokens) < seq_len + 1:
        raise UserError(
            f"training.seq_len={seq_len}: {name} has {len(tokens)} tokens, fewer than one window of {seq_len + 1}; "
            "choose a smaller training.seq_len or prepare more text (data.*.paths, data.*.max_bytes)"
        )
