"""A training step on a task: the loss and its gradient are means over the answers of the whole batch."""

import pytest
import torch
from torch.nn import functional as F

from src.data.task_data import TaskLoader
from src.model.build import build_model
from src.model.language_model import split_rows
from tests.contract.small import ARCHITECTURES, small_spec
from tests.data.test_task_data import task_data
from tests.training.conftest import StateBuilder, step


def batch_of(name: str) -> torch.Tensor:
    return torch.from_numpy(TaskLoader(task_data(name), 32, 0).batch(0, 8))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_micro_batches_with_different_numbers_of_answers_equal_the_batch(
    architecture: str, build_state: StateBuilder
) -> None:
    batch = batch_of("noisy_recall")
    assert len(torch.unique((batch[:, 1] >= 0).sum(dim=1))) > 1
    states = [build_state(model=build_model(small_spec(architecture), seed=0)) for _ in range(2)]
    whole, parts = step(states[0], batch, 8), step(states[1], batch, 1)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.grad_norm, whole.grad_norm, rtol=1e-4, atol=0)


def test_loss_is_that_of_the_answers_alone(build_state: StateBuilder) -> None:
    state, batch = build_state(), batch_of("mqar")
    inputs, targets = split_rows(batch)
    with torch.no_grad():
        logits = state.model.logits(inputs)
    asked = targets >= 0
    expected = F.cross_entropy(logits[asked], targets[asked])
    torch.testing.assert_close(step(state, batch).loss, expected, rtol=1e-5, atol=0)


def test_inputs_that_no_answer_depends_on_have_no_gradient(build_state: StateBuilder) -> None:
    """After the last answer, nothing that the model reads changes the loss."""
    batch = batch_of("parity")
    batch[:, 0, -1] = torch.where(batch[:, 1, -1] < 0, 2, batch[:, 0, -1])
    first, second = build_state(), build_state()
    assert (batch != batch_of("parity")).any()
    assert float(step(first, batch).loss) == float(step(second, batch_of("parity")).loss)


def test_split_rows_shifts_text() -> None:
    inputs, targets = split_rows(torch.tensor([[1, 2, 3]]))
    assert inputs.tolist() == [[1, 2]] and targets.tolist() == [[2, 3]]
