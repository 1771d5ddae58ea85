"""AdamW as it is configured; which parameters it decays is in tests/contract, by name, for every architecture."""

import pytest
import torch

from src.config import OptimizerConfig
from src.training.optimizer import build_optimizer
from tests.contract.small import small_model


def test_settings_arrive() -> None:
    config = OptimizerConfig(
        name="adamw", learning_rate=3e-3, betas=[0.8, 0.99], eps=1e-6, weight_decay=0.3, grad_clip=1.0
    )
    optimizer = build_optimizer(small_model("mamba"), config)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (3e-3, (0.8, 0.99), 1e-6, True)


@pytest.mark.parametrize("architecture", ["mamba", "hybrid"])
def test_without_a_gradient_only_decay_moves_and_only_what_it_may(architecture: str) -> None:
    model = small_model(architecture, "classic")
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if name in model.no_decay() else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=lambda text, name=name: name + text)
