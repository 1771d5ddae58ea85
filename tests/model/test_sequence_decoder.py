"""The decoder of the compression task: what it computes, what it sees, and its cost."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from src.model.build import build_model
from src.model.cost.memory_estimate import training_memory
from src.model.cost.model_cost import model_cost
from src.model.language_model import LanguageModel
from src.model.sequence_decoder import sine_positions
from src.model.size_matching import match_config
from tests.contract.small import RECIPES, composed, random_tokens, small_spec

TASK = ("data=compression", "stage=task", "training.seq_len=32")


def model_with_decoder(recipe: str = "modern") -> LanguageModel:
    return build_model(replace(small_spec("mamba", recipe), has_decoder=True), seed=0).eval()


def reference_decoder(model: LanguageModel, last: Tensor, length: int) -> Tensor:
    """Return the decoder's output (T, D) from the last hidden state (D,), position by position in float64."""
    weights = {name: value.double() for name, value in model.decoder.named_parameters()} if model.decoder else {}
    width, rows = len(last), []
    for t in range(length):
        angles = [t / 10_000 ** (i / (width // 2 - 1)) for i in range(width // 2)]
        x = last.double() + torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
        for i in range(2):
            if model.spec.norm == "layernorm":
                normed = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
            else:
                normed = x / (x.square().mean() + 1e-5).sqrt()
            normed = normed * weights[f"norms.{i}.weight"] + weights.get(f"norms.{i}.bias", 0.0)
            x = weights[f"layers.{i}.weight"] @ normed + weights[f"layers.{i}.bias"]
            x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
        rows.append(x)
    return torch.stack(rows)


@pytest.mark.parametrize("recipe", RECIPES)
def test_decoder_equals_reference_implementation(recipe: str) -> None:
    model = model_with_decoder(recipe)
    x = torch.randn(2, 20, 64)
    assert model.decoder is not None
    for row, found in zip(x, model.decoder(x), strict=True):
        torch.testing.assert_close(found.double(), reference_decoder(model, row[-1], 20), rtol=1e-4, atol=1e-6)


def test_only_the_last_hidden_state_is_read() -> None:
    model = model_with_decoder()
    x = torch.randn(1, 20, 64, requires_grad=True)
    assert model.decoder is not None
    (gradient,) = torch.autograd.grad(model.decoder(x).square().sum(), x)
    assert not gradient[:, :-1].any() and gradient[:, -1].any()
    tokens = random_tokens(1, 20)
    other = tokens.clone()
    other[0, 3] += 1
    assert (model.logits(tokens) - model.logits(other)).abs().amax(-1).min() > 0, "at every position, before it too"


def test_positions_are_different_for_odd_widths_too() -> None:
    for width in (7, 64):
        positions = sine_positions(300, width, torch.zeros(1))
        assert positions.shape == (300, width) and len(torch.unique(positions, dim=0)) == 300


@pytest.mark.parametrize("recipe", RECIPES)
def test_cost_is_that_of_the_built_model(recipe: str) -> None:
    model, spec = model_with_decoder(recipe), small_spec("mamba", recipe)
    cost, plain = (model_cost(each, 64) for each in (model.spec, spec))
    assert cost.total_params == sum(parameter.numel() for parameter in model.parameters())
    assert cost.non_embedding_params == plain.non_embedding_params
    assert cost.forward_flops_per_token - plain.forward_flops_per_token == 2 * 2 * 64 * 64
    memory = [training_memory(each, seq_len=64, micro_batch_size=4, accumulate=False) for each in (model.spec, spec)]
    assert memory[0].total > memory[1].total


def test_models_of_the_task_have_it_and_are_matched_without_it() -> None:
    for name in ("dense", "mamba"):
        match = match_config(composed(name, "modern", *TASK))
        assert match.spec.has_decoder and abs(match.residual) < 0.02
    assert not match_config(composed("dense", "modern")).spec.has_decoder
    assert type(match.spec).from_dict(match.spec.to_dict()) == match.spec
