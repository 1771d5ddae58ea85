"""Grouped experts against the reference implementation, the two auxiliary losses, and the router's bias."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from src.model.blocks.moe import module
from src.model.blocks.moe.module import MoE
from src.model.build import build_model
from tests.contract.small import random_tokens, small_spec
from tests.reference.moe import reference_moe


def build_moe(recipe: str = "modern", scale: float = 20.0, **changes: Any) -> MoE:
    """Build a block whose router has clear preferences; the choices of a freshly initialized one depend on rounding."""
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
@pytest.mark.parametrize("bias", [None, (0.0, 0.7, -0.7, 0.3, 0.0)])
def test_groups_equal_reference_implementation(
    recipe: str, top_k: int, length: int, bias: tuple[float, ...] | None
) -> None:
    block = build_moe(recipe, top_k=top_k, router_bias_rate=0.0 if bias is None else 0.1)
    if bias is not None:
        block.get_buffer("router_bias").copy_(torch.tensor(bias))
    x = torch.randn(2, length, 16, requires_grad=True)
    y, aux_loss, load, router_z = block(x)
    expected, wanted_aux, wanted_load, wanted_z = reference_moe(block, x)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(aux_loss.double(), wanted_aux, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(router_z.double(), wanted_z.detach(), rtol=1e-5, atol=0)
    assert load.tolist() == wanted_load
    assert not router_z.requires_grad

    projection = torch.randn_like(x)
    leaves = [x, *block.parameters()]
    fast = torch.autograd.grad((y * projection).sum() + aux_loss, leaves)
    reference = torch.autograd.grad((expected * projection).sum() + wanted_aux, leaves)
    for found, want in zip(fast, reference, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6 + 1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("recipe", ["modern", "classic"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_grouped_product_equals_the_loop(monkeypatch: pytest.MonkeyPatch, recipe: str, precision: str) -> None:
    block = build_moe(recipe, scale=5.0)
    with torch.no_grad():
        block.router.weight[0] = -block.router.weight[1:].sum(dim=0).abs() * 100  # an expert without tokens
    x = torch.randn(2, 9, 16).abs().requires_grad_()
    leaves, projection = [x, *block.parameters()], torch.randn_like(x)

    def run() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = block(x)
        assert output.expert_load is not None
        assert 0 in output.expert_load
        return [output.y, *torch.autograd.grad((output.y * projection).sum() + output.aux_loss, leaves)]

    loop = run()
    products: list[torch.dtype] = []
    grouped_mm = torch.nn.functional.grouped_mm

    def count(a: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        products.append(a.dtype)
        return grouped_mm(a, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", count)
    monkeypatch.setattr(module, "has_grouped_product", lambda device, dtype: True)
    rtol, atol = (1.6e-2, 1e-3) if precision == "bf16" else (1.3e-6, 1e-5)  # a CPU may sum in another order
    for found, want in zip(run(), loop, strict=True):
        torch.testing.assert_close(found, want, rtol=rtol, atol=atol)
    assert products == [torch.bfloat16 if precision == "bf16" else torch.float32] * 2


def test_widths_that_the_grouped_product_does_not_take_use_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = build_moe(expert_d_ff=12), torch.randn(2, 9, 16)
    wanted = block(x).y
    monkeypatch.setattr(module, "has_grouped_product", lambda device, dtype: True)
    assert torch.equal(block(x).y, wanted)


@torch.no_grad()
@pytest.mark.parametrize("recipe", ["modern", "classic"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_decoded_token_equals_reference_implementation(recipe: str, top_k: int, rate: float) -> None:
    block, x = build_moe(recipe, top_k=top_k, router_bias_rate=rate), torch.randn(1, 1, 16)
    if rate:
        block.get_buffer("router_bias").copy_(torch.tensor((0.0, 0.7, -0.7, 0.3, 0.0)))
    output = block(x)
    torch.testing.assert_close(output.y.double(), reference_moe(block, x)[0], rtol=1e-4, atol=1e-4)
    assert output.expert_load is None, "no loss to balance"


def test_expert_without_tokens_has_no_gradient() -> None:
    block = build_moe()
    with torch.no_grad():
        block.router.weight[3] = -block.router.weight[:3].sum(dim=0).sign() * 100
    x = torch.randn(1, 1, 16)
    y, _, load, _ = block(x)
    y.sum().backward()
    assert block.w_in.grad is not None
    for expert in range(5):
        assert bool(block.w_in.grad[expert].any()) == bool(load[expert])


def steer(block: MoE, experts: list[list[int]]) -> torch.Tensor:
    """Build an input (1, len(experts), D) of which the router sends token i to `experts[i]` with high probability."""
    with torch.no_grad():
        block.router.weight.copy_(torch.eye(block.n_experts, block.router.in_features) * 60.0)
    x = torch.zeros(1, len(experts), block.router.in_features)
    for token, chosen in enumerate(experts):
        x[0, token, chosen] = 1.0
    return x


def output_after_update(block: MoE, x: torch.Tensor) -> Any:
    """Return the block's output for x after updating its load shares with those of x."""
    load = block(x).expert_load
    block.update_balance(load, torch.tensor(1.0))
    return block(x)


def test_balance_loss_is_1_for_even_load_and_e_over_k_for_collapse() -> None:
    block = build_moe(n_experts=4, top_k=2, aux_loss_weight=1.0, router_z_loss_weight=0.0)
    even = output_after_update(block, steer(block, [[0, 1], [2, 3], [1, 2], [3, 0]]))
    assert even.expert_load.tolist() == [2, 2, 2, 2]
    assert even.aux_loss.item() == pytest.approx(1.0), "4 (2/8 x 1/4 x 4)"
    collapsed = output_after_update(block, steer(block, [[0, 1]] * 4))
    assert collapsed.expert_load.tolist() == [4, 4, 0, 0]
    assert collapsed.aux_loss.item() == pytest.approx(2.0), "4 (4/8 x 1/2 x 2) = E / k"


def test_layers_collapsed_to_different_experts_do_not_cancel() -> None:
    """Pooled over the layers, each expert has a quarter of all choices, so a pooled loss would be 1, as for balance."""
    halves, losses, loads = ([[0, 1]] * 4, [[2, 3]] * 4), [], []
    for experts in halves:
        block = build_moe(n_experts=4, top_k=2, aux_loss_weight=0.01, router_z_loss_weight=0.0)
        _, aux_loss, load, _ = output_after_update(block, steer(block, experts))
        losses.append(aux_loss.item())
        loads.append(load)
    assert torch.stack(loads).sum(dim=0).tolist() == [4, 4, 4, 4]
    assert losses == pytest.approx([0.02, 0.02]), "0.01 E / k each; balanced layers would add up to 0.02"


def test_model_sums_the_losses_of_its_layers() -> None:
    """Both routers read the same component of every hidden state, and route it to different experts."""
    spec = replace(small_spec("moe"), blocks=("moe", "moe"), n_experts=4, aux_loss_weight=1.0, router_z_loss_weight=0.0)
    model = build_model(spec, seed=0)
    with torch.no_grad():
        model.embedding.weight[:, 0] = 100.0  # the residual stream is dominated by its first coordinate
        for block, favored in zip(model.blocks, ([0, 1], [2, 3]), strict=True):
            assert isinstance(block, MoE)
            block.router.weight.zero_()
            block.router.weight[favored, 0] = 10.0
    tokens = random_tokens(2, 8)
    model.update_routers(model(tokens).expert_load, torch.tensor(1.0))
    output = model(tokens)
    assert output.expert_load is not None and output.expert_load.tolist() == [[16, 16, 0, 0], [0, 0, 16, 16]]
    assert output.router_z is not None and output.router_z.shape == (2,)
    assert output.aux_loss.item() == pytest.approx(2.0 + 2.0, rel=1e-3), "each layer has E / k = 2; balance is 1 + 1"


def test_z_loss_is_the_mean_square_of_the_log_partition() -> None:
    block = build_moe(aux_loss_weight=0.0, router_z_loss_weight=0.001)
    torch.nn.init.zeros_(block.router.weight)
    output = block(torch.randn(1, 4, 16))
    assert output.aux_loss.item() == pytest.approx(0.001 * math.log(5) ** 2)
    assert output.router_z.item() == pytest.approx(math.log(5) ** 2), "logged without its weight"


def test_bias_follows_the_load_only_in_applied_steps() -> None:
    block = build_moe(n_experts=4, router_bias_rate=0.25)
    applied, skipped = torch.tensor(1.0), torch.tensor(0.0)
    block.update_balance(torch.tensor([9, 3, 4, 4]), applied)  # the mean is 5
    assert block.get_buffer("router_bias").tolist() == [-0.25, 0.25, 0.25, 0.25]
    block.update_balance(torch.tensor([0, 10, 5, 5]), applied)
    assert block.get_buffer("router_bias").tolist() == [0.0, 0.0, 0.25, 0.25], "an even load does not change the bias"
    assert block.load_share.tolist() == [0.0, 0.5, 0.25, 0.25]
    block.update_balance(torch.tensor([20, 0, 0, 0]), skipped)
    assert block.get_buffer("router_bias").tolist() == [0.0, 0.0, 0.25, 0.25]
    assert block.load_share.tolist() == [0.0, 0.5, 0.25, 0.25]


def test_bias_affects_the_choice_and_not_the_weight() -> None:
    """Two chosen experts; if the weights used the biased scores, the mixture would change."""
    plain, biased = build_moe(n_experts=3, top_k=2), build_moe(n_experts=3, top_k=2, router_bias_rate=0.1)
    x = torch.randn(1, 1, 16)
    chosen = plain(x).expert_load.bool()
    biased.get_buffer("router_bias").copy_(5.0 * chosen)
    assert torch.equal(biased(x).y, plain(x).y), "the same experts with a larger bias"
    biased.get_buffer("router_bias").copy_(5.0 * ~chosen)
    assert biased(x).expert_load[~chosen].tolist() == [1], "the third is chosen because of its bias"


def test_no_bias_without_a_rate() -> None:
    assert "router_bias" not in build_moe().state_dict()
    assert build_moe(router_bias_rate=0.001).state_dict()["router_bias"].tolist() == [0.0] * 5
    build_moe().update_balance(torch.tensor([1, 0, 0, 0, 0]), torch.tensor(1.0))  # no bias to update


def test_router_is_fp32_under_autocast() -> None:
    block = build_moe()
    x = torch.randn(2, 9, 16)
    exact, half = block(x), None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x)
    assert half.y.dtype == torch.bfloat16
    assert torch.equal(half.expert_load, exact.expert_load) and torch.equal(half.aux_loss, exact.aux_loss)


def test_router_gets_gradients_with_a_single_expert() -> None:
    block = build_moe("modern", top_k=1)
    block.aux_loss_weight = block.router_z_loss_weight = 0.0
    block(torch.randn(2, 8, block.router.in_features)).y.square().sum().backward()
    assert block.router.weight.grad is not None
    assert block.router.weight.grad.abs().max() > 1e-6
