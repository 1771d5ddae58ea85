"""A model that knows the grammar reaches the floor and recalls all names; a uniform model does not."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.data.loader import eval_starts, eval_windows
from src.data.preparation.token_annotations import Annotations, annotate_windows
from src.data.sources.generated import generate_stories
from src.data.tokenizer.bpe import EOT_ID, byte_lengths, encode, train_tokenizer
from src.evaluation.loss import evaluate_windows
from src.evaluation.position_loss import predict_targets, summarize_context
from src.model.language_model import ModelOutput
from tests.contract.small import CPU, VOCAB_SIZE, random_tokens, small_model

SEQ_LEN = 160


@pytest.fixture(scope="module")
def text() -> SimpleNamespace:
    """Windows of generated stories and their annotations."""
    documents = [document.text for document in generate_stories(seed=6, max_bytes=25_000)]
    tokenizer = train_tokenizer(documents, vocab_size=500)
    tokens = np.array([EOT_ID, *(token for text in documents for token in [*encode(tokenizer, text), EOT_ID])])
    known = annotate_windows(tokens, eval_starts(len(tokens), SEQ_LEN, 30), SEQ_LEN, "stories", tokenizer, EOT_ID)
    windows = eval_windows(tokens, SEQ_LEN, 30)
    return SimpleNamespace(known=known, windows=windows, lengths=byte_lengths(tokenizer))


class Oracle(torch.nn.Module):
    """Predicts each target with its probability under the grammar, and the other tokens uniformly."""

    def __init__(self, windows: np.ndarray, bits: np.ndarray, vocab_size: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(vocab_size, vocab_size, bias=False)
        self.head.weight.data = torch.eye(vocab_size)
        self.known = {window[:-1].tobytes(): (window[1:], p) for window, p in zip(windows, 2.0**-bits, strict=True)}

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> ModelOutput:
        rows: list[Tensor] = []
        for row in tokens:
            targets, p = self.known[row.numpy().tobytes()]
            others = (1 - p) / (len(self.head.weight) - 1)
            probabilities = torch.tensor(others)[:, None].repeat(1, len(self.head.weight))
            probabilities[range(len(targets)), targets] = torch.tensor(p)
            rows.append(probabilities.log().clamp(min=-1e4).float())
        return ModelOutput(torch.stack(rows), None, None)


def summarize(model: Any, text: SimpleNamespace) -> dict[str, Any]:
    nats, hits = predict_targets(model, text.windows, device=CPU)
    return summarize_context(nats, hits, text.windows, text.lengths, text.known)


def test_oracle_reaches_the_floor_and_recalls_all(text: SimpleNamespace) -> None:
    found = summarize(Oracle(text.windows, text.known.bits, len(text.lengths)), text)
    assert found["above_floor_bits_per_byte"] == pytest.approx(0, abs=1e-5)
    assert found["positions"]["loss"] == pytest.approx(found["positions"]["floor"], abs=1e-5)
    assert min(found["positions"]["floor"]) > 0.1
    assert len(found["recall"]["to"]) >= 5 and sum(found["recall"]["n"]) > 40 and found["hidden"]["n"] > 20
    for recall in (found["recall"], found["hidden"]):
        assert np.array(recall["loss"]) == pytest.approx(0, abs=1e-5)
        assert np.array(recall["accuracy"]) == pytest.approx(1)


def test_uniform_model_is_above_the_floor(text: SimpleNamespace) -> None:
    uniform = np.full(text.known.bits.shape, math.log2(len(text.lengths)))
    found = summarize(Oracle(text.windows, uniform, len(text.lengths)), text)
    targets = text.windows[:, 1:]
    above = (uniform.sum() - text.known.bits.sum()) / text.lengths[targets].sum()
    assert found["above_floor_bits_per_byte"] == pytest.approx(above, rel=1e-5)
    assert found["positions"]["loss"] == pytest.approx([math.log(len(text.lengths))] * len(found["positions"]["n"]))
    assert sum(found["positions"]["n"]) == targets.size
    assert set(found["recall"]["accuracy"]) == {0.0} and found["hidden"]["accuracy"] == 0


def test_recall_needs_whole_names_and_ranges_end_at_powers_of_two() -> None:
    nats = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    hits = np.array([[True, True, False, True, True]])
    recalls = np.array([[0, 0, 1, 3], [0, 1, 3, 4], [0, 3, 5, 5], [0, 4, 5, 0]])
    known = Annotations(np.array([[1.0, 0.0, 0.0, np.nan, 0.5]]), recalls, unparsed=1)
    found = summarize_context(nats, hits, np.array([[0, 1, 1, 1, 1, 1]]), np.array([0, 2]), known)
    assert found["positions"]["to"] == [1, 2, 4, 8] and found["positions"]["n"] == [1, 1, 1, 1]
    assert found["positions"]["loss"] == [1, 2, 3, 5]
    assert found["above_floor_bits_per_byte"] == pytest.approx((11 / math.log(2) - 1.5) / 8, abs=1e-6)
    assert found["recall"] == {"to": [4, 8], "n": [2, 1], "loss": [1.75, 4.5], "accuracy": [0.5, 1]}
    assert found["hidden"] == {"n": 1, "loss": 5, "accuracy": 1}


@pytest.mark.parametrize("eot_id", [None, 3])
def test_losses_equal_those_of_the_evaluation(eot_id: int | None) -> None:
    model, windows = small_model("hybrid"), random_tokens(5, 65).numpy()
    windows[:, 20] = 3
    nats, hits = predict_targets(model, windows, device=CPU, eot_id=eot_id)
    expected = evaluate_windows(model, windows, np.ones(VOCAB_SIZE, dtype=int), batch_size=2, device=CPU, eot_id=eot_id)
    assert nats.mean() == pytest.approx(expected.loss, rel=1e-6)
    assert hits.shape == (5, 64) and model.training
    found = summarize_context(nats, hits, windows, np.ones(VOCAB_SIZE, dtype=int), None)
    assert list(found) == ["positions"]
    assert np.average(found["positions"]["loss"], weights=found["positions"]["n"]) == pytest.approx(expected.loss)


def test_losses_of_a_broken_model_are_none(text: SimpleNamespace) -> None:
    nats = np.full(text.known.bits.shape, np.nan)
    found = summarize_context(nats, nats > 0, text.windows, text.lengths, text.known)
    assert found["above_floor_bits_per_byte"] is None and set(found["positions"]["loss"]) == {None}
