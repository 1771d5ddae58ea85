"""Scores of the answers of a task against a model whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from src.data.task_data import rows_of
from src.evaluation.answers import accuracy_by_distance, score_answers
from src.evaluation.position_loss import predict_targets
from src.model.language_model import ModelOutput
from tests.contract.small import CPU, small_model
from tests.data.test_task_data import task_data


class Repeater(nn.Module):
    """Answers with the token that it reads: right where an answer is its own question."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.eye(vocab_size) * 20)
        self.head = nn.Linear(vocab_size, vocab_size, bias=False)
        self.head.weight.data = torch.eye(vocab_size)

    def forward(self, tokens: torch.Tensor, documents: object = None) -> ModelOutput:
        return ModelOutput(self.embedding(tokens), None, None)


def test_accuracy_is_the_share_of_answers_that_are_most_probable() -> None:
    (held_out,) = task_data("parity", test_lengths=[12]).held_out_sets("test", 12, 300)
    scores = score_answers(Repeater(3), held_out, device=CPU)  # pyright: ignore[reportArgumentType]
    last, targets = held_out.examples.inputs[:, -1], held_out.examples.targets[:, -1]
    assert scores.n == 300 and scores.accuracy == pytest.approx((last == targets).mean())
    assert 0.4 < scores.accuracy < 0.6, "the last bit says nothing about the parity"
    assert scores.loss == pytest.approx(20 * (1 - scores.accuracy), rel=1e-3)
    assert accuracy_by_distance([scores]) == {"to": [16], "n": [300], "accuracy": [round(scores.accuracy, 6)]}


def test_prediction_of_answers_equals_that_of_all_positions() -> None:
    (held_out,) = task_data("noisy_recall").held_out_sets("test", 64, 40)
    model, rows = small_model("dense"), rows_of(held_out.examples)
    nats, hits = predict_targets(model, rows, device=CPU)
    with torch.no_grad():
        log_p = model.logits(torch.from_numpy(rows[:, 0])).log_softmax(dim=-1).numpy()
    asked = rows[:, 1] >= 0
    expected = -np.take_along_axis(log_p, np.where(asked, rows[:, 1], 0)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(nats[asked], expected[asked], rtol=1e-4)
    assert (nats[~asked] == 0).all() and not hits[~asked].any()
    assert (hits[asked] == (log_p.argmax(axis=-1) == rows[:, 1])[asked]).all()
