"""One optimizer step: loss, accumulation, clipping, and skipped steps."""

import copy
from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.build import build_model
from src.model.language_model import ModelOutput, token_loss
from src.training.train_step import TrainState, train_step
from tests.contract.small import ARCHITECTURES, CPU, random_tokens, small_model, small_spec
from tests.reference.loss import reference_cross_entropy
from tests.training.conftest import StateBuilder, poison, step


def weights(state: TrainState) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_chunked_loss_equals_reference_implementation(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.model.cost.memory_estimate.LOGITS_AT_ONCE", 1)  # chunks of 64 tokens, the minimum
    model = small_model("dense")
    hidden, targets = torch.randn(1, rows, 64, requires_grad=True), random_tokens(1, rows)
    loss = token_loss(model, ModelOutput(hidden, None, None), targets)
    expected = reference_cross_entropy(hidden[0], model.head.weight, targets[0])
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, F.cross_entropy(model.head(hidden)[0], targets[0]), rtol=1e-6, atol=0)
    found = torch.autograd.grad(loss, [hidden, model.head.weight])
    reference = torch.autograd.grad(expected, [hidden, model.head.weight])
    for one, other in zip(found, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_loss_of_answers_computes_their_logits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, computed = small_model("dense"), []
    whole = F.linear_cross_entropy

    def counted(hidden: Tensor, *args: Any, **options: Any) -> Tensor:
        computed.append(len(hidden))
        return whole(hidden, *args, **options)

    monkeypatch.setattr(F, "linear_cross_entropy", counted)
    hidden, targets = torch.randn(2, 50, 64, requires_grad=True), random_tokens(2, 50)
    asked = torch.zeros(2, 50, dtype=torch.bool)
    asked[0, 7], asked[1, 40:43] = True, True
    loss = token_loss(model, ModelOutput(hidden, None, None), targets.where(asked, -100), answers_only=True)
    assert computed == [4]
    expected = reference_cross_entropy(hidden[asked], model.head.weight, targets[asked])
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    found, reference = (torch.autograd.grad(each, [hidden, model.head.weight]) for each in (loss, expected))
    for one, other in zip(found, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_micro_batches_equal_the_batch(architecture: str, build_state: StateBuilder) -> None:
    """The balancing losses weigh as much as the task, and start from uneven shares."""
    spec = replace(small_spec(architecture), aux_loss_weight=1.0, router_z_loss_weight=0.1)
    batch = random_tokens(8, 17)
    states = [build_state(model=build_model(spec, seed=0)) for _ in (8, 4, 1)]
    for state in states:
        if (shares := state.model.load_shares()) is not None:
            state.model.set_load_shares((shares * torch.arange(shares.shape[1])).softmax(dim=1))
    whole, *parts = [step(state, batch, micro) for state, micro in zip(states, (8, 4, 1), strict=True)]
    for part, state in zip(parts, states[1:], strict=True):
        torch.testing.assert_close(part.loss, whole.loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(part.grad_norm, whole.grad_norm, rtol=1e-5, atol=0)
        for name, found in state.optimizer.state_dict()["state"].items():
            expected = states[0].optimizer.state_dict()["state"][name]["exp_avg"]
            torch.testing.assert_close(found["exp_avg"], expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    for name, found in weights(states[1]).items():
        # Adam's first step is the sign of the gradient, which is random if the gradient is only rounding error.
        torch.testing.assert_close(found, weights(states[0])[name], rtol=0, atol=2.1e-3)
        differs = (found - weights(states[0])[name]).abs() > 1e-5
        assert differs.float().mean() < 0.01, name
    if whole.expert_load is not None:
        assert all(part.expert_load is not None and torch.equal(part.expert_load, whole.expert_load) for part in parts)


def test_loss_of_a_step_has_no_auxiliary_part(build_state: StateBuilder) -> None:
    state, batch = build_state("moe"), random_tokens(4, 17)
    output = state.model(batch[:, :-1])
    expected = token_loss(state.model, output, batch[:, 1:])
    assert output.aux_loss > 0
    torch.testing.assert_close(step(state, batch).loss, expected.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_masked_documents_are_trained_independently(activation_checkpointing: bool, build_state: StateBuilder) -> None:
    """Loss and gradient equal those of the separate documents: 5, 1 and 11 tokens, the first without its start."""
    state, eot, cuts = build_state("jamba"), 3, [5, 1, 11]
    tokens = random_tokens(1, 18) % 200 + 4
    tokens[0, [5, 6]] = eot
    expected = torch.zeros(())
    for part, targets in zip(tokens[:, :-1].split(cuts, dim=1), tokens[:, 1:].split(cuts, dim=1), strict=True):
        expected = expected + token_loss(state.model, state.model(part), targets) * part.shape[1] / 17
    gradients = torch.autograd.grad(expected, list(state.model.parameters()))
    state.model.activation_checkpointing = activation_checkpointing
    output = step(state, tokens, eot_id=eot)
    torch.testing.assert_close(output.loss, expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(output.grad_norm, torch.stack([each.norm() for each in gradients]).norm())
    assert abs(step(build_state("jamba"), tokens).loss - expected) > 1e-3


def test_clipping_bounds_the_gradient_norm(build_state: StateBuilder) -> None:
    batch, seen = random_tokens(4, 17), {}
    for clip in (0.0, 1e9, 0.01):
        state = build_state()
        output = step(state, batch, clip=clip)
        first_moments = [entry["exp_avg"] for entry in state.optimizer.state_dict()["state"].values()]
        norm = torch.cat([moment.flatten() for moment in first_moments]).norm() / (1 - 0.9)
        seen[clip] = (float(output.grad_norm), float(norm))
    assert seen[0.0] == seen[1e9], "0 means no clipping"
    assert seen[0.0][1] == pytest.approx(seen[0.0][0], rel=1e-4)
    assert seen[0.01][0] == pytest.approx(seen[0.0][0]), "the norm before clipping is reported"
    assert seen[0.01][1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("architecture", ["dense", "moe"])
@pytest.mark.parametrize("factor", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_non_finite_gradient_is_not_applied(
    architecture: str, factor: float, clip: float, steps_before: int, build_state: StateBuilder
) -> None:
    """Weights, moments and step counts are unchanged, and the next step is unaffected."""
    state, unaffected = build_state(architecture), build_state(architecture)
    for number in range(steps_before):
        for each in (state, unaffected):
            assert step(each, random_tokens(4, 17, number), clip=clip).skipped == 0
    before, moments = weights(state), copy.deepcopy(state.optimizer.state_dict()["state"])

    poison(state, repeat(factor))
    output = step(state, random_tokens(4, 17, 9), clip=clip)
    assert output.skipped == 1 and not output.grad_norm.isfinite()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(state).items())
    for number, entry in state.optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, moments[number][name] if moments else torch.zeros_like(value)), name
    assert all(parameter.grad is None for parameter in state.model.parameters())

    state.forward = state.model
    for each in (state, unaffected):
        assert step(each, random_tokens(4, 17, 5), clip=clip).skipped == 0
    after = weights(unaffected)
    assert all(torch.equal(tensor, after[name]) for name, tensor in weights(state).items())


def test_nan_in_one_micro_batch_skips_the_step(build_state: StateBuilder) -> None:
    state = build_state()
    before = weights(state)
    poison(state, [1.0, torch.nan, 1.0, 1.0])
    assert step(state, random_tokens(8, 17), micro=2).skipped == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(state).items())


def test_loss_decreases(build_state: StateBuilder) -> None:
    state, batch = build_state("mamba"), random_tokens(4, 17)
    losses = [float(step(state, batch).loss) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.5


def test_dropout_does_not_depend_on_the_micro_batch(build_state: StateBuilder) -> None:
    """Another step has other masks."""

    def loss(micro: int, key: tuple[object, ...], dropout: float = 0.3) -> float:
        state = build_state()
        output = train_step(
            state, random_tokens(6, 17),
            micro_batch_size=micro, grad_clip=1.0, device=CPU, dropout=dropout, key=key,
        )  # fmt: skip
        assert state.model.dropout is None, "dropout is off after the step"
        return float(output.grad_norm)

    whole = loss(6, (5, "language", 7))
    assert [loss(micro, (5, "language", 7)) for micro in (3, 2, 1)] == pytest.approx([whole] * 3, rel=1e-5)
    assert loss(6, (5, "language", 8)) != pytest.approx(whole, rel=2e-5)
    assert loss(6, (5, "language", 7), dropout=0.0) != pytest.approx(whole, rel=2e-5)
