"""Memorized shares against an exhaustive search."""

import numpy as np
import pytest

from src.evaluation import memorization
from src.evaluation.memorization import distinct_share, memorized_shares


def reference(text: list[int], training: list[int], span: int) -> float:
    inside = [False] * len(text)
    places = {tuple(training[i : i + span]) for i in range(len(training) - span + 1)}
    for i in range(len(text) - span + 1):
        if tuple(text[i : i + span]) in places:
            inside[i : i + span] = [True] * span
    return sum(inside) / len(text) if text else 0.0


def test_shares_equal_an_exhaustive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "CHUNK_SIZE", 50)  # spans cross the ends of chunks
    draw = np.random.default_rng(0)
    training = draw.integers(0, 3, 400)
    texts = [draw.integers(0, 3, n).tolist() for n in (0, 3, 40, 200)]
    texts += [training[30:80].tolist(), [9, *training[95:110].tolist(), 9]]
    for span in (4, 7):
        expected = [reference(text, training.tolist(), span) for text in texts]
        assert memorized_shares(texts, training.astype(np.uint16), span) == pytest.approx(expected)
    assert 0 < memorized_shares(texts, training, 7)[-1] < 1


def test_order_of_tokens_matters() -> None:
    training = np.arange(100)
    assert memorized_shares([list(range(30, 60)), list(range(60, 30, -1))], training) == [1.0, 0.0]


def test_token_zero_is_hashed() -> None:
    assert memorized_shares([[0] * 24, [0] * 30], np.array([5] + [0] * 24 + [5])) == [1.0, 1.0]
    assert memorized_shares([[0] * 24], np.array([5] + [0] * 23 + [5])) == [0.0]


def test_distinct_share() -> None:
    assert distinct_share([[1, 2, 3, 4, 5]]) == 1.0
    assert distinct_share([[1, 2, 3, 4], [1, 2, 3, 4]]) == 0.5
    assert distinct_share([[1, 2, 3]]) is None
