"""Activations against their formulas."""

import math

import torch

from src.model.blocks.mlp.module import apply_activation


def test_swiglu_gates_with_the_first_half() -> None:
    hidden = torch.randn(3, 10)
    gate, up = hidden[:, :5], hidden[:, 5:]
    torch.testing.assert_close(apply_activation(hidden, "swiglu"), gate / (1 + (-gate).exp()) * up)


def test_gelu_is_the_tanh_form() -> None:
    x = torch.randn(3, 10)
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(apply_activation(x, "gelu"), expected)
