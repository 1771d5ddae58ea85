"""Norms against their definitions, always computed in fp32."""

import pytest
import torch

from src.model.blocks.norm import EPS, LayerNorm, RMSNorm, build_norm
from tests.contract.small import small_spec


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("eps", [EPS, 1e-2])
def test_rmsnorm_divides_by_the_root_mean_square(eps: float, gradients: bool, scale: float) -> None:
    """Without gradients small inputs use another path; for small x, epsilon matters."""
    norm, x = RMSNorm(8, eps), scale * torch.randn(2, 3, 8)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(8))
    expected = x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * torch.arange(8)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_centered_and_scaled(bias: bool) -> None:
    norm, x = LayerNorm(8, bias), torch.randn(2, 3, 8) + 5
    expected = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True, unbiased=False) + EPS).sqrt()
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)
    assert (norm.bias is not None) == bias


@pytest.mark.parametrize("recipe", ["modern", "classic"])
def test_half_precision_is_normalized_in_fp32(recipe: str) -> None:
    norm = build_norm(small_spec("dense", recipe))
    x = (torch.randn(2, 64) * 1000).bfloat16()
    found = norm(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, norm(x.float()).bfloat16())
