"""Memory probes: how well a model uses a repetition, by the distance to the first mention.

Each sequence consists of random tokens of the training text, so only the mention helps; its control is the same
sequence with other tokens in place of the mention. For the targets that the mention determines:

- accuracy: the share that are the most probable token.
- gain: nats saved by the mention, the loss of the control minus the loss; it shows an effect in small models whose
  accuracy is still zero.

copying: a span of d tokens, then the same again (Jelassi et al., 2024, arXiv 2402.01032).
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
"""Number of most frequent tokens that the sequences are drawn from."""
PAIRS = 8
MIN_DISTANCE = 2 * PAIRS


class Probe(NamedTuple):
    """Sequences of one kind and distance."""

    tokens: np.ndarray
    """(n, L + 1) token ids."""
    control: np.ndarray
    """The same without the mention."""
    targets: np.ndarray
    """Indices of those of the L targets that the mention determines."""


def frequent_tokens(tokens: np.ndarray, eot_id: int, n: int = ALPHABET) -> np.ndarray:
    """Return at most n of the most frequent tokens that occur, without the token between documents."""
    counts = np.bincount(tokens[: 1 << 20])
    counts[eot_id : eot_id + 1] = 0
    order = np.argsort(-counts, kind="stable")[:n]
    return order[counts[order] > 0]


def build_copying(draw: "TokenSampler", distance: int) -> Probe:
    """Build a span and its repetition, whose first token is not a target, since it cannot be predicted."""
    stretch, other = draw(distance), draw(distance)
    targets = np.arange(distance + 1, 2 * distance)
    return draw.probe([stretch, stretch], [other, stretch], targets)


def build_induction(draw: "TokenSampler", distance: int) -> Probe:
    """Build one pair with one query."""
    row = draw(distance + 7)
    before, first, second, third, between = np.split(row, [6, 7, 8, 9], axis=1)
    return draw.probe(
        [before, first, second, between, first, second],
        [before, first, third, between, first, second],
        np.array([before.shape[1] + distance + 1]),
    )


def build_recall(draw: "TokenSampler", distance: int) -> Probe:
    """Build PAIRS pairs with one query each."""
    keys, values, others, between = np.split(
        draw(3 * PAIRS + distance - MIN_DISTANCE), [PAIRS, 2 * PAIRS, 3 * PAIRS], 1
    )
    order = np.argsort(splitmix64(np.arange(PAIRS, dtype=np.uint64)))

    def interleave(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.stack([first, second], axis=2).reshape(len(first), -1)

    queries = interleave(keys[:, order], values[:, order])
    start = MIN_DISTANCE + between.shape[1]
    return draw.probe(
        [interleave(keys, values), between, queries],
        [interleave(keys, others), between, queries],
        start + 1 + 2 * np.arange(PAIRS),
    )


PROBES: dict[str, Callable[["TokenSampler", int], Probe]] = {
    "copying": build_copying,
    "induction": build_induction,
    "recall": build_recall,
}


class TokenSampler:
    """Random rows of an alphabet, the same on every machine; a token repeats only after all others have been drawn."""

    def __init__(self, alphabet: np.ndarray, eot_id: int, n: int, seed: int = 0) -> None:
        self.alphabet, self.eot_id, self.n = alphabet, eot_id, n
        self._key = splitmix64(np.array([seed], dtype=np.uint64))

    def __call__(self, length: int) -> np.ndarray:
        """Draw (n, length) ids, different ones at each call."""
        self._key = splitmix64(self._key)
        size = len(self.alphabet)
        cells = np.arange(self.n * -(-length // size) * size, dtype=np.uint64)
        order = np.argsort(splitmix64(cells ^ self._key).reshape(self.n, -1, size), axis=2)
        return self.alphabet[order].reshape(self.n, -1)[:, :length]

    def probe(self, tokens: list[np.ndarray], control: list[np.ndarray], targets: np.ndarray) -> Probe:
        """Concatenate the parts; each row is one document."""
        first = np.full((self.n, 1), self.eot_id)
        rows = (np.concatenate([first, *parts], axis=1).astype(np.int64) for parts in (tokens, control))
        return Probe(*rows, targets=targets)


def measure_probes(
    model: LanguageModel, alphabet: np.ndarray, *, device: Device, eot_id: int, context_len: int, n: int
) -> dict[str, dict[str, list[Any]]]:
    """Measure each probe at distances 16, 32 and so on, as long as its sequences fit into context_len, n sequences
    each.

    Returns for each probe `to` (distances), `n` (targets), `accuracy` and `gain` (nats).
    """
    found: dict[str, dict[str, list[Any]]] = {}
    if len(alphabet) < 4 * PAIRS:  # too few tokens for a probe
        return found
    for name, build in PROBES.items():
        measured: dict[str, list[Any]] = {"to": [], "n": [], "accuracy": [], "gain": []}
        draw, distance = TokenSampler(alphabet, eot_id, n), MIN_DISTANCE
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
