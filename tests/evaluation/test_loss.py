"""Loss and bits per byte against values computed by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.evaluation.loss import document_losses, evaluate_windows
from src.model.build import build_model
from src.model.language_model import ModelOutput
from src.profiling.memory_measurement import peak_growth
from tests.contract.small import ARCHITECTURES, CPU, VOCAB_SIZE, random_tokens, small_model, small_spec


class ConstantModel(torch.nn.Module):
    """Predicts the same distribution for every token."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.spec = SimpleNamespace(vocab_size=len(probabilities))
        self.head = torch.nn.Linear(1, len(probabilities), bias=False)
        self.head.weight.data = torch.tensor(probabilities).log()[:, None]

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> ModelOutput:
        assert not torch.is_grad_enabled() and not self.training
        return ModelOutput(torch.ones(*tokens.shape, 1), None, None)


def evaluate(model: Any, windows: np.ndarray, byte_lengths: list[int], batch_size: int = 2) -> Any:
    return evaluate_windows(model, windows, np.array(byte_lengths), batch_size=batch_size, device=CPU)


def test_bits_per_byte_computed_by_hand() -> None:
    """Targets 1, 2, 0 and 1, 1, 2 cost 2 + 3 + 1 and 2 + 2 + 3 bits, for 2 + 5 + 0 and 2 + 2 + 5 bytes."""
    model = ConstantModel([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    windows = np.array([[3, 1, 2, 0], [0, 1, 1, 2]])
    found = evaluate(model, windows, [0, 2, 5, 7])
    assert found.tokens == 6
    assert found.bits_per_byte == pytest.approx(13 / 16, rel=1e-6)
    assert found.loss == pytest.approx(13 * math.log(2) / 6, rel=1e-6)


def test_first_token_of_a_window_is_not_a_target() -> None:
    model = ConstantModel([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    found = [evaluate(model, np.array([[first, 1, 2]]), [0, 2, 5, 7]) for first in range(4)]
    assert len(set(found)) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_size_does_not_change_the_loss(architecture: str) -> None:
    model = small_model(architecture)
    windows, lengths = random_tokens(7, 33).numpy(), [1] * VOCAB_SIZE
    expected = evaluate(model, windows, lengths, batch_size=1)
    for batch_size in (2, 3, 7, 100):
        found = evaluate(model, windows, lengths, batch_size)
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
        assert found.tokens == 7 * 32
    assert expected.loss == pytest.approx(math.log(VOCAB_SIZE), rel=0.02)
    assert expected.bits_per_byte == pytest.approx(expected.loss / math.log(2)), "one byte per token"


def test_masked_documents_are_evaluated_independently() -> None:
    """Two windows with two documents each, the second of which begins at position 9 or 20."""
    model, eot, lengths = small_model("hybrid"), 3, [1] * VOCAB_SIZE
    windows = random_tokens(2, 33).numpy() % 200 + 4
    windows[0, 9] = windows[1, 20] = eot
    found = evaluate_windows(model, windows, np.array(lengths), batch_size=2, device=CPU, eot_id=eot)
    alone = [windows[0, None, :10], windows[0, None, 9:], windows[1, None, :21], windows[1, None, 20:]]
    parts = [evaluate(model, part, lengths) for part in alone]
    assert found.loss == pytest.approx(sum(part.loss * part.tokens for part in parts) / found.tokens, rel=1e-6)
    assert found.loss != pytest.approx(evaluate(model, windows, lengths).loss, rel=1e-6)


def test_losses_are_summed_by_document() -> None:
    """Documents of 5, 3 and 8 tokens; two windows of 4 targets, from tokens 0 and 8, or 3 and 12."""
    tokens = np.array([0, 7, 7, 7, 7, 0, 7, 7, 0, 7, 7, 7, 7, 7, 7, 7])
    nats = np.array([[1.0, 2.0, 4.0, 8.0], [0.5, 0.25, 16.0, 32.0]])
    n_bytes = np.array([[1, 1, 1, 1], [2, 2, 2, 2]])
    found = document_losses(tokens, [0, 8], nats, n_bytes, 0)
    assert found == {"first": [0, 8], "nats": [15.0, 48.75], "bytes": [4, 8]}
    found = document_losses(tokens, [3, 12], nats, n_bytes, 0)
    assert found == {"first": [0, 5, 8], "nats": [3.0, 12.0, 48.75], "bytes": [2, 2, 8]}
    assert document_losses(np.array([7, 7, 0, 7]), [0], nats[:1, :3], n_bytes[:1, :3], 0)["first"] == [0, 2]
    assert document_losses(tokens, [0], np.full((1, 4), math.nan), n_bytes[:1], 0)["nats"] == [None]


def test_logits_are_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss equals that of all logits."""
    monkeypatch.setattr("src.model.cost.memory_estimate.LOGITS_AT_ONCE", 1)  # chunks of 64 tokens, the minimum
    model = build_model(replace(small_spec("dense"), vocab_size=8192, blocks=("mlp",)), seed=0)
    windows, found = random_tokens(8, 129, vocab_size=8192), []
    all_logits = 8 * 128 * 8192 * 4
    assert (
        peak_growth(lambda: found.append(evaluate(model, windows.numpy(), [1] * 8192, batch_size=8))) < all_logits / 8
    )
    with torch.no_grad():
        expected = F.cross_entropy(model.logits(windows[:, :-1]).double().flatten(0, 1), windows[:, 1:].flatten())
    assert found[0].loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_model_is_unchanged(training: bool) -> None:
    model = small_model("dense").train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    evaluate(model, random_tokens(3, 9).numpy(), [1] * VOCAB_SIZE)
    assert model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random), "evaluation does not use the generator of training"


def test_loss_of_a_broken_model_is_nan() -> None:
    found = evaluate(ConstantModel([math.nan] * 4), np.array([[1, 2, 3]]), [1] * 4)
    assert math.isnan(found.loss) and math.isnan(found.bits_per_byte)
