"""Experts sorted into groups against a loop over tokens, and the two auxiliary losses."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from src.model.blocks.moe import MoE
from tests.contract.small import small_spec
from tests.reference.moe import naive_moe


def build_moe(recipe: str = "modern", scale: float = 20.0, **changes: Any) -> MoE:
    """Build a block whose router is sure of itself: fresh routers choose by a hair."""
    spec = replace(small_spec("moe", recipe), **{"d_model": 16, "expert_d_ff": 8, "n_experts": 5, **changes})
    torch.manual_seed(0)
    block = MoE(spec)
    block.init_weights(1.0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(scale)
    return block


@pytest.mark.parametrize("recipe", ["modern", "classic"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 9])
def test_groups_equal_a_loop_over_tokens(recipe: str, top_k: int, length: int) -> None:
    block = build_moe(recipe, top_k=top_k)
    x = torch.randn(2, length, 16, requires_grad=True)
    y, aux_loss, load = block(x)
    wanted, wanted_aux, wanted_load = naive_moe(block, x)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(aux_loss.double(), wanted_aux, rtol=1e-5, atol=1e-7)
    assert load.tolist() == wanted_load

    projection = torch.randn_like(x)
    leaves = [x, *block.parameters()]
    fast = torch.autograd.grad((y * projection).sum() + aux_loss, leaves)
    naive = torch.autograd.grad((wanted * projection).sum() + wanted_aux, leaves)
    for found, want in zip(fast, naive, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6 + 1e-4 * float(want.abs().max()))


def test_an_expert_without_tokens_gets_no_gradient() -> None:
    block = build_moe()
    with torch.no_grad():
        block.router.weight[3] = -block.router.weight[:3].sum(dim=0).sign() * 100
    x = torch.randn(1, 1, 16)
    y, _, load = block(x)
    y.sum().backward()
    assert block.w_in.grad is not None
    for expert in range(5):
        assert bool(block.w_in.grad[expert].any()) == bool(load[expert])


def test_the_balance_loss_is_1_where_experts_are_even_and_grows_where_they_are_not() -> None:
    block = build_moe(aux_loss_weight=1.0, router_z_loss_weight=0.0)
    logits = torch.full((10, 5), -50.0)
    logits[torch.arange(10), torch.arange(10) % 5] = 50.0
    logits[torch.arange(10), (torch.arange(10) + 1) % 5] = 50.0
    even = block._aux_loss(logits, logits.softmax(-1), torch.tensor([4, 4, 4, 4, 4]))
    assert float(even) == pytest.approx(1.0)
    collapsed = torch.tensor([50.0, 50.0, -50.0, -50.0, -50.0]).expand(10, 5)
    worst = block._aux_loss(collapsed, collapsed.softmax(-1), torch.tensor([10, 10, 0, 0, 0]))
    assert float(worst) == pytest.approx(5 / 2), "E / k"


def test_the_z_loss_is_the_mean_square_of_the_log_partition() -> None:
    block = build_moe(aux_loss_weight=0.0, router_z_loss_weight=0.001)
    logits = torch.zeros(4, 5)
    found = block._aux_loss(logits, logits.softmax(-1), torch.tensor([2, 2, 2, 1, 1]))
    assert float(found) == pytest.approx(0.001 * torch.tensor(5.0).log().item() ** 2)


def test_the_router_is_fp32_under_autocast() -> None:
    block = build_moe()
    x = torch.randn(2, 9, 16)
    exact, half = block(x), None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x)
    assert half.y.dtype == torch.bfloat16
    assert torch.equal(half.expert_load, exact.expert_load) and torch.equal(half.aux_loss, exact.aux_loss)


def test_a_single_expert_still_teaches_the_router() -> None:
    block = build_moe("modern", top_k=1)
    block.aux_loss_weight = block.router_z_loss_weight = 0.0
    block(torch.randn(2, 8, block.router.in_features)).y.square().sum().backward()
    assert block.router.weight.grad is not None
    assert block.router.weight.grad.abs().max() > 1e-6
