"""Probes of memory: what a model makes of a repetition, by how far back the first mention lies.

Each sequence is of random tokens of the training text, so nothing but the mention helps; its control is the same
sequence with something else in the place of the mention. Of the targets that the mention gives away:

- accuracy: the share that are the likeliest token.
- gain: nats that the mention saves, the loss of the control minus the loss: a small model shows here what it cannot
  show there.

copying: a stretch of d tokens, then the same again (Jelassi et al., 2024, arXiv 2402.01032).
induction: A B, d - 2 others, A: then B (Olsson et al., 2022, arXiv 2209.11895).
recall: eight keys with their values, others, then the keys in another order: their values (multi-query associative
    recall; Arora et al., 2023, arXiv 2312.04927).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from src.data.hashing import splitmix64
from src.evaluation.position_loss import predict_targets
from src.model.language_model import LanguageModel
from src.runtime.device import Device

ALPHABET = 512
"""The sequences are of so many of the most frequent tokens."""
PAIRS = 8
LEAST_DISTANCE = 2 * PAIRS


class Probe(NamedTuple):
    """Sequences of one kind and distance."""

    tokens: np.ndarray
    """(n, L + 1) token ids."""
    control: np.ndarray
    """The same without the mention."""
    targets: np.ndarray
    """Which of the L targets the mention gives away: indices."""


def frequent_tokens(tokens: np.ndarray, eot_id: int, n: int = ALPHABET) -> np.ndarray:
    """Return the n most frequent of the tokens (at most, and only what occurs), the one between documents aside."""
    counts = np.bincount(tokens[: 1 << 20])
    counts[eot_id : eot_id + 1] = 0
    order = np.argsort(-counts, kind="stable")[:n]
    return order[counts[order] > 0]


def copying(draw: "Draw", distance: int) -> Probe:
    """The first token of the repetition cannot be known; the others can."""
    stretch, other = draw(distance), draw(distance)
    targets = np.arange(distance + 1, 2 * distance)
    return draw.probe([stretch, stretch], [other, stretch], targets)


def induction(draw: "Draw", distance: int) -> Probe:
    """One pair, asked for once."""
    row = draw(distance + 7)
    before, first, second, third, between = np.split(row, [6, 7, 8, 9], axis=1)
    return draw.probe(
        [before, first, second, between, first, second],
        [before, first, third, between, first, second],
        np.array([before.shape[1] + distance + 1]),
    )


def recall(draw: "Draw", distance: int) -> Probe:
    """PAIRS pairs, each asked for once."""
    keys, values, others, between = np.split(
        draw(3 * PAIRS + distance - LEAST_DISTANCE), [PAIRS, 2 * PAIRS, 3 * PAIRS], 1
    )
    order = np.argsort(splitmix64(np.arange(PAIRS, dtype=np.uint64)))

    def interleave(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.stack([first, second], axis=2).reshape(len(first), -1)

    asked = interleave(keys[:, order], values[:, order])
    start = LEAST_DISTANCE + between.shape[1]
    return draw.probe(
        [interleave(keys, values), between, asked],
        [interleave(keys, others), between, asked],
        start + 1 + 2 * np.arange(PAIRS),
    )


PROBES: dict[str, Callable[["Draw", int], Probe]] = {"copying": copying, "induction": induction, "recall": recall}


class Draw:
    """Random rows of an alphabet, the same on every machine; no token twice in a row before all have been."""

    def __init__(self, alphabet: np.ndarray, eot_id: int, n: int, seed: int = 0) -> None:
        self.alphabet, self.eot_id, self.n = alphabet, eot_id, n
        self._key = splitmix64(np.array([seed], dtype=np.uint64))

    def __call__(self, length: int) -> np.ndarray:
        """Draw (n, length) ids, others at each call."""
        self._key = splitmix64(self._key)
        size = len(self.alphabet)
        cells = np.arange(self.n * -(-length // size) * size, dtype=np.uint64)
        order = np.argsort(splitmix64(cells ^ self._key).reshape(self.n, -1, size), axis=2)
        return self.alphabet[order].reshape(self.n, -1)[:, :length]

    def probe(self, tokens: list[np.ndarray], control: list[np.ndarray], targets: np.ndarray) -> Probe:
        """Put the parts together, each row as a document of its own."""
        first = np.full((self.n, 1), self.eot_id)
        rows = (np.concatenate([first, *parts], axis=1).astype(np.int64) for parts in (tokens, control))
        return Probe(*rows, targets=targets)


def measure_probes(
    model: LanguageModel, alphabet: np.ndarray, *, device: Device, eot_id: int, context_len: int, n: int
) -> dict[str, dict[str, list[Any]]]:
    """Measure each probe at distances 16, 32 and so on, as far as its sequences fit into context_len, n sequences each.

    Returns for each probe `to` (distances), `n` (targets), `accuracy` and `gain` (nats).
    """
    found: dict[str, dict[str, list[Any]]] = {}
    if len(alphabet) < 4 * PAIRS:  # a vocabulary of a handful of tokens
        return found
    for name, build in PROBES.items():
        measured: dict[str, list[Any]] = {"to": [], "n": [], "accuracy": [], "gain": []}
        draw, distance = Draw(alphabet, eot_id, n), LEAST_DISTANCE
        while (probe := build(draw, distance)).tokens.shape[1] - 1 <= context_len:
            (nats, hits), (without, _) = (
                predict_targets(model, windows, device=device) for windows in (probe.tokens, probe.control)
            )
            at = probe.targets
            values = (distance, n * len(at), hits[:, at].mean(), (without - nats)[:, at].mean())
            for column, value in zip(measured.values(), values, strict=True):
                column.append(round(float(value), 6) if isinstance(value, np.floating) else value)
            distance *= 2
        found[name] = measured
    return found
