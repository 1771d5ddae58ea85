"""Dropout masks: their distribution, their key, and that evaluation uses none."""

import pytest
import torch
from torch import Tensor

from src.config.schema import SamplingConfig
from src.inference.generation import generate
from src.model.dropout import Dropout
from src.model.language_model import LanguageModel
from tests.contract.small import ARCHITECTURES, SEQ_LEN, random_tokens, small_model

P = 0.25


def drawn(dropout: Dropout, like: Tensor) -> Tensor:
    mask = dropout.mask(like)
    assert mask is not None
    return mask


def test_mask_has_the_probability_and_scale() -> None:
    mask = drawn(Dropout(P, (0, "language", 3), range(100), "cpu"), torch.zeros(100, 1000))
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - P)])
    assert (mask == 0).float().mean().item() == pytest.approx(P, abs=0.01)
    assert mask.mean().item() == pytest.approx(1, abs=0.01)


def test_masks_are_a_function_of_the_key() -> None:
    def masks(*key: object) -> list[Tensor]:
        dropout = Dropout(P, key, range(4), "cpu")
        return [drawn(dropout, torch.zeros(4, 50)) for _ in range(2)]

    first, second = masks(0, "language", 3)
    assert not torch.equal(first, second) and len(first.unique(dim=0)) == 4
    again = masks(0, "language", 3)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    others = ((1, "language", 3), (0, "code", 3), (0, "language", 4))
    assert not any(torch.equal(first, masks(*key)[0]) for key in others)
    part = drawn(Dropout(P, (0, "language", 3), range(1, 3), "cpu"), torch.zeros(2, 50))
    assert torch.equal(part, first[1:3]), "the mask of a row of the global batch does not depend on the micro batch"


def run(model: LanguageModel, key: object = 0, p: float = P) -> tuple[Tensor, dict[str, Tensor]]:
    """Run forward and backward with dropout; return hidden states and gradients."""
    model.zero_grad()
    model.dropout = Dropout(p, (key,), range(2), "cpu") if p else None
    hidden = model(random_tokens(2, SEQ_LEN)).hidden
    hidden.square().mean().backward()
    model.dropout = None
    return hidden.detach(), {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recomputation_uses_the_same_masks(architecture: str) -> None:
    model = small_model(architecture).train()
    hidden, gradients = run(model)
    assert not torch.equal(run(model, key=1)[0], hidden)
    assert not torch.equal(run(model, p=0)[0], hidden)
    model.activation_checkpointing = True
    again, recomputed = run(model)
    assert torch.equal(again, hidden)
    assert gradients.keys() == recomputed.keys()
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)


def test_embedding_can_be_dropped_alone() -> None:
    model = small_model("dense").train()
    tokens = random_tokens(2, SEQ_LEN)
    model.dropout = Dropout(0.0, ("embedding",), range(2), "cpu", embedding_p=P)
    kept = Dropout(P, ("embedding",), range(2), "cpu").mask(model.embedding(tokens))
    assert kept is not None and model.dropout.mask(kept) is None
    hidden = model(tokens).hidden
    x = model.embedding(tokens) * kept
    for norm, block in zip(model.norms, model.blocks, strict=True):
        x = model.residual_step(norm, block, x, None, None).y
    torch.testing.assert_close(hidden, model.final_norm(x))


def test_dropped_block_adds_nothing() -> None:
    """With nearly everything dropped, the final hidden states are those of a zero input."""
    model = small_model("dense").train()
    model.dropout = Dropout(0.999999, ("all",), range(2), "cpu")
    nothing = model.final_norm(torch.zeros(2, SEQ_LEN, model.spec.d_model))
    torch.testing.assert_close(model(random_tokens(2, SEQ_LEN)).hidden, nothing)


def test_evaluation_and_generation_drop_nothing() -> None:
    model, tokens = small_model("hybrid").eval(), random_tokens(2, SEQ_LEN)
    plain, sampling = model.logits(tokens), SamplingConfig(max_new_tokens=5)
    text = list(generate(model, [1, 2, 3], sampling))
    model.train().dropout = Dropout(P, ("left over",), range(2), "cpu")
    assert list(generate(model, [1, 2, 3], sampling)) == text
    assert torch.equal(model.eval().logits(tokens), plain)
