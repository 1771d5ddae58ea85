"""The chunked delta rule against its reference implementation, and its difference from other recurrences."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import UserError
from src.huggingface import mapping_of
from src.model.blocks.gated_deltanet.cost import count_heads
from src.model.blocks.gated_deltanet.module import GatedDeltaNet, chunked_delta_rule
from src.model.size_matching import match_config
from tests.contract.small import composed, small_spec
from tests.reference.delta_rule import sequential_delta_rule
from tests.reference.documents import packed_ids

H, N, P = 3, 8, 16


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    beta: Tensor


def draw(length: int, decay: float = 1.0, seed: int = 0) -> Inputs:
    """Draw inputs of a batch of two with a decay of about exp(-decay) per step."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (F.normalize(torch.randn(2, length, H, N, generator=generator), dim=-1) for _ in range(2))
    v = torch.randn(2, length, H, P, generator=generator)
    log_decay, beta = (torch.rand(2, length, H, generator=generator) for _ in range(2))
    return Inputs(q, k, v, -2 * decay * log_decay, beta)


@pytest.mark.parametrize("decay", [0.0, 0.01, 1.0, 50.0])
@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_chunks_equal_reference_implementation(chunk: int, decay: float) -> None:
    """With a length that no chunk divides, from a state, without decay, and with almost complete decay."""
    given, state = draw(75, decay), torch.randn(2, H, N, P, generator=torch.Generator().manual_seed(9))
    expected, last = sequential_delta_rule(*given, state)
    found, end = chunked_delta_rule(*given, chunk, state)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(end.double(), last, rtol=1e-5, atol=2e-5)


def test_negative_eigenvalues_equal_reference_implementation() -> None:
    """With writes from 0 to 2, in chunks; `test_negative_eigenvalues.py` tests the model."""
    given = draw(75, 0.01)
    given = given._replace(beta=2 * given.beta)
    found, end = chunked_delta_rule(*given, 16)
    expected, last = sequential_delta_rule(*given)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(end.double(), last, rtol=1e-4, atol=1e-4)


def test_one_write_of_strength_two_reflects_the_state() -> None:
    """Parity: with b = 2, v = 0 and no decay, each write along the stored key flips its sign; with b <= 1 none does."""
    keys, values = torch.eye(N)[:1][None, :, None].expand(1, 3, H, N), torch.zeros(1, 3, H, P)
    state = torch.ones(1, H, N, P)
    found, _ = chunked_delta_rule(keys, keys, values, torch.zeros(1, 3, H), torch.full((1, 3, H), 2.0), 4, state)
    assert found[0, :, 0, 0].tolist() == pytest.approx([-1, 1, -1])


def test_gradients_equal_reference_implementation() -> None:
    given = Inputs(*(part.requires_grad_() for part in draw(40)))
    direction = torch.randn(2, 40, H, P, generator=torch.Generator().manual_seed(3))
    ours = torch.autograd.grad((chunked_delta_rule(*given, 16)[0] * direction).sum(), given)
    theirs = torch.autograd.grad((sequential_delta_rule(*given)[0] * direction).sum(), given)
    for name, one, other in zip(Inputs._fields, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_documents_equal_reference_implementation() -> None:
    given, cuts = draw(61), (20, 1, 27, 13)
    parts = [
        Inputs(*(part[:, first : first + n] for part in given)) for first, n in zip((0, 20, 21, 48), cuts, strict=True)
    ]
    expected = torch.cat([sequential_delta_rule(*part)[0] for part in parts], dim=1)
    found, _ = chunked_delta_rule(*given, 16, documents=packed_ids(cuts, 2))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_write_replaces_the_value_of_its_key() -> None:
    """Without decay and with beta = 1; the value of the other key is unchanged."""
    keys = torch.eye(N)[[0, 1, 0]][None, :, None].expand(1, 3, H, N)
    values = torch.randn(1, 3, H, P, generator=torch.Generator().manual_seed(1))
    log_decay, beta = torch.zeros(1, 3, H), torch.ones(1, 3, H)
    found, state = chunked_delta_rule(keys, keys, values, log_decay, beta, 4)
    torch.testing.assert_close(found, values)
    torch.testing.assert_close(state[:, :, :2], values[:, [2, 1]].transpose(1, 2))


def test_heads_are_three_quarters_of_the_width() -> None:
    spec = match_config(composed("gated_deltanet", "modern", "size=tiny")).spec
    block = GatedDeltaNet(spec)
    matrices = sum(weight.numel() for weight in block.parameters() if weight.ndim == 2 and weight.shape[1] > 4)
    assert count_heads(spec) * spec.head_dim == 0.75 * spec.d_model
    assert matrices == pytest.approx(6 * spec.d_model**2, rel=0.01)


def test_init() -> None:
    """Decay rates uniform over 1..16 and dt log-uniform, as in Mamba-2; the kernel uniform on +-1/sqrt(K), K = 4."""
    torch.manual_seed(0)
    block = GatedDeltaNet(match_config(composed("gated_deltanet", "modern", "size=xlarge")).spec)
    block.init_weights(0.5)
    rates, dt = block.A_log.exp(), F.softplus(block.dt_bias)
    assert 1 <= rates.min() < 4 and 13 < rates.max() <= 16
    assert 1e-3 * 0.999 <= dt.min() < 5e-3 and 2e-2 < dt.max() <= 1e-1 * 1.001
    assert block.conv_weight.std().item() == pytest.approx(0.5 / math.sqrt(3), rel=0.02)
    assert block.qk.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert block.out_proj.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert torch.equal(block.norm_weight, torch.ones_like(block.norm_weight))
    assert block.no_decay() == {"A_log", "dt_bias", "norm_weight"}


def test_classic_recipe_has_no_mapping() -> None:
    with pytest.raises(UserError, match="HybridForCausalLM needs norm=rmsnorm"):
        mapping_of(small_spec("gated_deltanet", "classic"))
